// Package console is the operator's HTTP side: health, readiness with reasons,
// and metrics. It shows and never steers.
package console
