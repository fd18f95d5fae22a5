// Command client is what the integration tests run in a guest where no common tool
// does the same. The servers are echoes.
//
//	client hold N ADDRESS:PORT…       opens N flows, sends on each, holds all, closes
//	client sequence N ADDRESS:PORT…   connects N times, one after another
//	client get URL                    prints what the URL answers
//
// The first two go round the addresses, and print how many flows worked.
package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"
)

// patience bounds one step of one flow: a busy machine has many.
const patience = 30 * time.Second

func main() {
	result, err := run(os.Args[1:])
	fmt.Println(result)
	if err != nil {
		fmt.Fprintln(os.Stderr, "client:", err)
		os.Exit(1)
	}
}

func run(args []string) (result any, err error) {
	if len(args) == 2 && args[0] == "get" {
		return get(args[1])
	}
	if len(args) < 3 {
		return 0, errors.New("say hold or sequence, how many, and where to; or get, and what")
	}
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return 0, err
	}
	switch args[0] {
	case "hold":
		return hold(n, args[2:])
	case "sequence":
		return sequence(n, args[2:])
	}
	return 0, fmt.Errorf("%q: say hold, sequence or get", args[0])
}

// get returns what a URL answers.
func get(url string) (string, error) {
	client := &http.Client{Timeout: patience}
	res, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return string(body), err
}

// hold opens n flows at once, exchanges a line on each twice, all open in between,
// and returns how many did.
func hold(n int, addresses []string) (int, error) {
	errs := make([]error, n)
	var opened, done sync.WaitGroup
	opened.Add(n)
	for i := range n {
		done.Go(func() {
			c, err := exchange(addresses[i%len(addresses)])
			opened.Done()
			opened.Wait() // all are open, or have failed
			if err == nil {
				err = errors.Join(echo(c), c.Close())
			}
			errs[i] = err
		})
	}
	done.Wait()
	good := 0
	for _, err := range errs {
		if err == nil {
			good++
		}
	}
	return good, errors.Join(errs...)
}

// sequence connects, exchanges a line and closes, n times.
func sequence(n int, addresses []string) (int, error) {
	for i := range n {
		c, err := exchange(addresses[i%len(addresses)])
		if err != nil {
			return i, err
		}
		if err := c.Close(); err != nil {
			return i, err
		}
	}
	return n, nil
}

// exchange connects and exchanges a line.
func exchange(address string) (net.Conn, error) {
	c, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return nil, err
	}
	if err := echo(c); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// echo sends a line and reads it back.
func echo(c net.Conn) error {
	c.SetDeadline(time.Now().Add(patience))
	const line = "there and back\n"
	if _, err := io.WriteString(c, line); err != nil {
		return err
	}
	got := make([]byte, len(line))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if string(got) != line {
		return fmt.Errorf("%v echoed %q", c.RemoteAddr(), got)
	}
	return nil
}
