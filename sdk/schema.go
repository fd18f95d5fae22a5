package sdk

import (
	"encoding/json"
	"reflect"
	"time"
)

// NetworkConfigSchema returns the JSON Schema (draft 2020-12) of the files that
// [ParseNetworkConfig] reads, for editors. It knows keys, types and fixed sets
// of values; what the values mean is checked when a sandbox is created.
func NetworkConfigSchema() []byte {
	s := structSchema(reflect.TypeFor[NetworkConfig]())
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = "sluice network configuration"
	s["properties"].(schema)["version"] = schema{"const": fileVersion}
	s["required"] = []string{"version"}
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		panic("sdk: internal error: " + err.Error()) // maps of strings always marshal
	}
	return append(text, '\n')
}

// A schema is a JSON Schema, or a part of one.
type schema map[string]any

// enums are the types whose values are a fixed set.
var enums = map[reflect.Type][]any{
	reflect.TypeFor[NetworkPolicyPreset](): {NetworkPolicyPresetNone, NetworkPolicyPresetPublicOnly, NetworkPolicyPresetAllowAll, NetworkPolicyPresetNonLocal},
	reflect.TypeFor[PolicyAction]():        {PolicyActionAllow, PolicyActionDeny},
	reflect.TypeFor[PolicyDirection]():     {PolicyDirectionEgress, PolicyDirectionIngress, PolicyDirectionAny},
	reflect.TypeFor[PolicyProtocol]():      {PolicyProtocolTCP, PolicyProtocolUDP, PolicyProtocolICMPv4, PolicyProtocolICMPv6},
	reflect.TypeFor[PortProtocol]():        {PortProtocolTCP, PortProtocolUDP},
	reflect.TypeFor[DenyResponse]():        {DenyResponseDrop, DenyResponseReject},
	reflect.TypeFor[ViolationAction]():     {ViolationActionBlock, ViolationActionBlockAndLog, ViolationActionBlockAndTerminate},
}

// schemaOf returns the schema of values of type t.
func schemaOf(t reflect.Type) schema {
	if values, ok := enums[t]; ok {
		return schema{"enum": values}
	}
	switch k := t.Kind(); {
	case t == reflect.TypeFor[time.Duration]():
		return schema{"type": "string", "description": "a duration such as 100ms"}
	case k == reflect.Pointer:
		return schemaOf(t.Elem())
	case k == reflect.Struct:
		return structSchema(t)
	case k == reflect.Slice:
		return schema{"type": "array", "items": schemaOf(t.Elem())}
	case k == reflect.Map: // host ports to guest ports
		return schema{"type": "object", "propertyNames": schema{"pattern": "^[0-9]{1,5}$"}, "additionalProperties": schemaOf(t.Elem())}
	case k == reflect.Bool:
		return schema{"type": "boolean"}
	case reflect.Uint <= k && k <= reflect.Uint64:
		s := schema{"type": "integer", "minimum": 0}
		if t.Bits() < 64 {
			s["maximum"] = uint64(1)<<t.Bits() - 1
		}
		return s
	}
	return schema{"type": "string"}
}

// structSchema returns the schema of a structure: the keys that its tags name,
// and no others.
func structSchema(t reflect.Type) schema {
	properties := schema{}
	for _, f := range reflect.VisibleFields(t) {
		if key := keyOf(f); key != "" {
			properties[key] = schemaOf(f.Type)
		}
	}
	return schema{"type": "object", "properties": properties, "additionalProperties": false}
}
