// Command exchange makes small exchanges with an echo server for a while, and
// prints how many it made per second. The bench runs it in each peer's guest.
//
//	exchange connect|request|datagram|idle [FLAGS] ADDRESS:PORT
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// config is what the flags say.
type config struct {
	address  string
	duration time.Duration
	parallel int // connections at once
	ports    int // that connections take in turn, from the address's on
	size     int // bytes of a message
	flight   int // datagrams on their way at once
}

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "exchange:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	kinds := map[string]func(config, func() bool) (int64, error){
		"connect": connects, "request": requests, "datagram": datagrams, "idle": idles,
	}
	if len(args) == 0 || kinds[args[0]] == nil {
		return errors.New("say connect, request, datagram or idle")
	}
	var c config
	flags := flag.NewFlagSet("exchange "+args[0], flag.ContinueOnError)
	flags.DurationVar(&c.duration, "duration", time.Second, "how long")
	flags.IntVar(&c.parallel, "parallel", 1, "connections at once")
	flags.IntVar(&c.ports, "ports", 1, "ports that connections take in turn")
	flags.IntVar(&c.size, "size", 64, "bytes of a message")
	flags.IntVar(&c.flight, "flight", 1, "datagrams on their way at once")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	// Resolved once: some peers are given by name, and no lookup is part of a
	// connection.
	server, err := net.ResolveTCPAddr("tcp", flags.Arg(0))
	if err != nil {
		return err
	}
	c.address = server.String()
	start := time.Now()
	n, err := kinds[args[0]](c, func() bool { return time.Since(start) < c.duration })
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%.1f\n", float64(n)/time.Since(start).Seconds())
	return err
}

// connects counts connections that were made, used once and closed.
func connects(c config, more func() bool) (int64, error) {
	addresses, err := c.addresses()
	if err != nil {
		return 0, err
	}
	var turn, count atomic.Int64
	errs := make(chan error, c.parallel)
	var wg sync.WaitGroup
	for range c.parallel {
		wg.Go(func() {
			for more() {
				if err := connectOnce(addresses[turn.Add(1)%int64(len(addresses))], c.size); err != nil {
					errs <- err
					return
				}
				count.Add(1)
			}
		})
	}
	wg.Wait()
	close(errs)
	return count.Load(), <-errs
}

// addresses returns where connections go in turn.
func (c config) addresses() ([]string, error) {
	host, port, err := net.SplitHostPort(c.address)
	if err != nil {
		return nil, err
	}
	first, err := strconv.Atoi(port)
	if err != nil {
		return nil, err
	}
	all := make([]string, c.ports)
	for i := range all {
		all[i] = net.JoinHostPort(host, strconv.Itoa(first+i))
	}
	return all, nil
}

func connectOnce(address string, size int) error {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	message := make([]byte, size)
	if _, err := conn.Write(message); err != nil {
		return err
	}
	_, err = io.ReadFull(conn, message)
	return err
}

// idles holds connections that do nothing, and counts them.
func idles(c config, more func() bool) (int64, error) {
	for range c.parallel {
		conn, err := net.Dial("tcp", c.address)
		if err != nil {
			return 0, err
		}
		defer conn.Close()
	}
	for more() {
		time.Sleep(10 * time.Millisecond)
	}
	return int64(c.parallel), nil
}

// requests counts messages that came back, one at a time on one connection.
func requests(c config, more func() bool) (int64, error) {
	conn, err := net.Dial("tcp", c.address)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	message := make([]byte, c.size)
	var count int64
	for ; more(); count++ {
		if _, err := conn.Write(message); err != nil {
			return count, err
		}
		if _, err := io.ReadFull(conn, message); err != nil {
			return count, err
		}
	}
	return count, nil
}

// lossPatience is how long a datagram may take before another one replaces it.
const lossPatience = 100 * time.Millisecond

// datagrams counts datagrams that came back, with a number of them on their way.
func datagrams(c config, more func() bool) (int64, error) {
	conn, err := net.Dial("udp", c.address)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	message := make([]byte, c.size)
	fill := func() error {
		for range c.flight {
			if _, err := conn.Write(message); err != nil {
				return err
			}
		}
		return nil
	}
	if err := fill(); err != nil {
		return 0, err
	}
	var count int64
	for more() {
		conn.SetReadDeadline(time.Now().Add(lossPatience))
		_, err := conn.Read(message)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			err = fill() // all are lost
		case err == nil:
			count++
			_, err = conn.Write(message)
		}
		if err != nil {
			return count, err
		}
	}
	return count, nil
}
