// Package dns answers the guests' queries. The owner of this package completes
// this doc.
package dns
