package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// helpWidth is how wide help is, in columns: what a terminal has at least.
const helpWidth = 80

// groupKey is the annotation of a flag that says below which title help lists it.
const groupKey = "group"

// flagGroup adds the flags that register registers to flags, below a title of their
// own in help, in the order in which they are registered.
func flagGroup(flags *pflag.FlagSet, title string, register func(*pflag.FlagSet)) {
	own := pflag.NewFlagSet(title, pflag.ContinueOnError)
	own.SortFlags = false
	register(own)
	own.VisitAll(func(f *pflag.Flag) { f.Annotations = map[string][]string{groupKey: {title}} })
	flags.SortFlags = false
	flags.AddFlagSet(own)
}

// groupOf returns the title of a flag, "" if it has none.
func groupOf(f *pflag.Flag) string {
	if titles := f.Annotations[groupKey]; len(titles) > 0 {
		return titles[0]
	}
	return ""
}

// usage prints how a command is used, in helpWidth columns: examples, what there
// is below it, its flags by group.
func usage(cmd *cobra.Command) error {
	var b strings.Builder
	line := cmd.UseLine()
	if cmd.HasAvailableSubCommands() {
		line = cmd.CommandPath() + " COMMAND"
	}
	fmt.Fprintf(&b, "Usage:\n  %s\n", line)
	if cmd.HasExample() {
		fmt.Fprintf(&b, "\nExamples:\n%s\n", cmd.Example)
	}
	for _, g := range append(cmd.Groups(), &cobra.Group{Title: "Commands"}) {
		printCommands(&b, cmd, g)
	}
	local := cmd.LocalFlags()
	var titles []string
	local.VisitAll(func(f *pflag.Flag) {
		if title := groupOf(f); !slices.Contains(titles, title) {
			titles = append(titles, title)
		}
	})
	for _, title := range titles {
		flags := pflag.NewFlagSet(title, pflag.ContinueOnError)
		flags.SortFlags = false
		local.VisitAll(func(f *pflag.Flag) {
			if groupOf(f) == title {
				flags.AddFlag(f)
			}
		})
		fmt.Fprintf(&b, "\n%s:\n%s", cmp.Or(title, "Flags"), flags.FlagUsagesWrapped(helpWidth))
	}
	if cmd.HasAvailableInheritedFlags() {
		fmt.Fprintf(&b, "\nEverywhere:\n%s", cmd.InheritedFlags().FlagUsagesWrapped(helpWidth))
	}
	if cmd.HasAvailableSubCommands() {
		fmt.Fprintf(&b, "\n%s COMMAND --help tells more about a command.\n", cmd.CommandPath())
	}
	_, err := io.WriteString(cmd.OutOrStderr(), b.String())
	return err
}

// printCommands prints the commands of a group, if there are any.
func printCommands(b *strings.Builder, cmd *cobra.Command, g *cobra.Group) {
	title := "\n" + g.Title + ":\n"
	for _, sub := range cmd.Commands() {
		if sub.GroupID == g.ID && sub.IsAvailableCommand() {
			fmt.Fprintf(b, "%s  %-*s %s\n", title, sub.NamePadding(), sub.Name(), sub.Short)
			title = ""
		}
	}
}

// family makes cmd a command that only has others below it.
func family(cmd *cobra.Command, subs ...*cobra.Command) *cobra.Command {
	cmd.AddCommand(subs...)
	cmd.Args = cobra.ArbitraryArgs
	cmd.SuggestionsMinimumDistance = 2
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		next := cmd.CommandPath() + " --help lists what there is"
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			next = fmt.Sprintf("did you mean %s %s?", cmd.CommandPath(), strings.Join(near, " or "))
		}
		return fmt.Errorf("unknown command %q; %s", args[0], next)
	}
	return cmd
}

// many stands for any number of arguments.
const many = int(^uint(0) >> 1)

// takes returns the check of a command that wants so many arguments.
func takes(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return fmt.Errorf("something is missing; write %s", cmd.UseLine())
		case len(args) > most:
			return fmt.Errorf("%q is too much; write %s", args[most], cmd.UseLine())
		}
		return nil
	}
}

// flagError puts what pflag says of a flag into words that say what to write.
func flagError(cmd *cobra.Command, err error) error {
	var value *pflag.InvalidValueError
	var missing *pflag.ValueRequiredError
	var unknown *pflag.NotExistError
	switch {
	case errors.As(err, &value):
		f := value.GetFlag()
		return fmt.Errorf("--%s %q: %w", f.Name, value.GetValue(), valueError(f, value.Unwrap()))
	case errors.As(err, &missing):
		name, _ := pflag.UnquoteUsage(missing.GetFlag())
		return fmt.Errorf("--%s: nothing follows; write --%[1]s %s", missing.GetFlag().Name, cmp.Or(name, "VALUE"))
	case errors.As(err, &unknown):
		return unknownFlag(cmd, unknown)
	}
	return fmt.Errorf("%w; %s --help shows the flags", err, cmd.CommandPath())
}

// valueError returns what is wrong with a flag's value: the error of our own
// types says it, that of pflag's speaks of parsing.
func valueError(f *pflag.Flag, err error) error {
	switch kind := f.Value.Type(); {
	case kind == "duration":
		return errors.New("want a time such as 90s, 10m or 1h30m")
	case kind == "bool":
		return errors.New("want nothing, true or false")
	case errors.Is(err, strconv.ErrRange), errors.Is(err, strconv.ErrSyntax):
		return errors.New("want a whole number" + limitOf(kind))
	}
	return err
}

// limitOf says how large a number of one of pflag's types may be.
func limitOf(kind string) string {
	switch kind {
	case "uint8":
		return " from 0 to 255"
	case "uint", "uint32", "uint64", "uintSlice":
		return ", 0 or more"
	}
	return ""
}

// unknownFlag says what to do about a flag that isn't one.
func unknownFlag(cmd *cobra.Command, err *pflag.NotExistError) error {
	if err.GetSpecifiedShortnames() == "" {
		if near := nearestFlag(cmd, err.GetSpecifiedName()); near != "" {
			return fmt.Errorf("%w; did you mean --%s?", err, near)
		}
	}
	next := cmd.CommandPath() + " --help shows the flags"
	if strings.Contains(cmd.Use, "--") {
		next += "; those of the command to run stand behind --"
	}
	return fmt.Errorf("%w; %s", err, next)
}

// nearestFlag returns the flag that a name was probably meant as, "" if none is
// near. cobra knows which words are near, but of commands only.
func nearestFlag(cmd *cobra.Command, name string) string {
	words := &cobra.Command{SuggestionsMinimumDistance: 2}
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		words.AddCommand(&cobra.Command{Use: f.Name, Run: func(*cobra.Command, []string) {}})
	})
	if near := words.SuggestionsFor(name); len(near) > 0 {
		return near[0]
	}
	return ""
}
