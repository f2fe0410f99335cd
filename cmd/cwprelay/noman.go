//go:build !man

package main

import "github.com/spf13/cobra"

// extraCommands are verbs that are not in the program that is released.
func extraCommands() []*cobra.Command { return nil }
