// Package whole holds no program: its test lets poller, dedupe, journal and
// delivery work together through random histories, kills among them, and
// compares what comes of it with a model in memory.
package whole
