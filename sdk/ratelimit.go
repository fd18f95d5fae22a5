package sdk

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/sluicenet/sluice/vnet"
)

// A NetworkRateLimiterConfig bounds what travels over the guest's card, per
// direction.
type NetworkRateLimiterConfig struct {
	Egress  *RateLimiterConfig `json:"egress,omitempty"`  // from the guest; nil means no limit
	Ingress *RateLimiterConfig `json:"ingress,omitempty"` // to the guest; nil means no limit
}

// A RateLimiterConfig bounds one direction.
type RateLimiterConfig struct {
	Bandwidth *TokenBucketConfig `json:"bandwidth,omitempty"` // a token is a byte; nil means no limit
	Ops       *TokenBucketConfig `json:"ops,omitempty"`       // a token is a frame; nil means no limit
}

// A TokenBucketConfig is a bucket that is full at the start and refilled
// continuously. A frame larger than the bucket passes once and leaves a debt.
type TokenBucketConfig struct {
	Size uint64 `json:"size"` // tokens it holds; at least 1
	// RefillTime is how long an empty bucket takes to be full; at least 1 ms.
	// In YAML and JSON it is a text such as "100ms".
	RefillTime   time.Duration `json:"refill_time"`
	OneTimeBurst uint64        `json:"one_time_burst,omitempty"` // tokens spent first, never refilled
}

// bucketJSON is a TokenBucketConfig with its duration as people write it.
type bucketJSON struct {
	Size         uint64 `json:"size"`
	RefillTime   string `json:"refill_time"`
	OneTimeBurst uint64 `json:"one_time_burst,omitempty"`
}

// MarshalJSON writes the duration as text.
func (b TokenBucketConfig) MarshalJSON() ([]byte, error) {
	return json.Marshal(bucketJSON{b.Size, b.RefillTime.String(), b.OneTimeBurst})
}

// UnmarshalJSON reads the duration as text.
func (b *TokenBucketConfig) UnmarshalJSON(data []byte) error {
	var j bucketJSON
	if err := unmarshalStrict(data, &j); err != nil {
		return err
	}
	d, err := time.ParseDuration(j.RefillTime)
	if err != nil {
		return fmt.Errorf("refill_time: %w", err)
	}
	*b = TokenBucketConfig{j.Size, d, j.OneTimeBurst}
	return nil
}

// compileRateLimiter reports buckets that could never pass anything, and limits
// that limit nothing.
func (c *checker) compileRateLimiter(r *NetworkRateLimiterConfig) vnet.RateLimit {
	if r == nil {
		return vnet.RateLimit{}
	}
	if r.Egress == nil && r.Ingress == nil {
		c.fail(ErrInvalidArgument, "RateLimiter", "", "limits neither direction", "set Egress or Ingress, or drop it")
	}
	return vnet.RateLimit{
		Egress:  c.compileRate("RateLimiter.Egress", r.Egress),
		Ingress: c.compileRate("RateLimiter.Ingress", r.Ingress),
	}
}

func (c *checker) compileRate(path string, r *RateLimiterConfig) vnet.Rate {
	if r == nil {
		return vnet.Rate{}
	}
	if r.Bandwidth == nil && r.Ops == nil {
		c.fail(ErrInvalidArgument, path, "", "limits neither bytes nor frames", "set Bandwidth or Ops, or drop it")
	}
	return vnet.Rate{
		Bandwidth: c.compileBucket(path+".Bandwidth", r.Bandwidth),
		Ops:       c.compileBucket(path+".Ops", r.Ops),
	}
}

func (c *checker) compileBucket(path string, b *TokenBucketConfig) vnet.Bucket {
	if b == nil {
		return vnet.Bucket{}
	}
	if b.Size == 0 {
		c.fail(ErrInvalidArgument, path+".Size", "0", "an empty bucket passes nothing", "write at least 1")
	}
	if b.RefillTime < time.Millisecond {
		c.fail(ErrInvalidArgument, path+".RefillTime", b.RefillTime.String(), "too short", "write at least 1ms")
	}
	return vnet.Bucket{Size: b.Size, Refill: b.RefillTime, Burst: b.OneTimeBurst}
}
