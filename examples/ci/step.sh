#!/bin/sh
# A step of a CI: step.sh COMMAND… runs a command that reaches what policy.yaml says.
# It fails with the command, and with 77 if the command tried something else; each
# flow is a line of flows.jsonl, and the job's log ends with a table of them.
set -eu
exec sluice run --backend namespace --policy "$(dirname "$0")/policy.yaml" \
	--events flows.jsonl --summary=md --fail-on-deny -- "$@"
