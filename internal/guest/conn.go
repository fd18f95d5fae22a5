package guest

import (
	"io"
	"net"
	"time"
)

// A conn is a channel as a connection.
type conn struct {
	channel *channel
	remote  guestAddr
}

var _ net.Conn = (*conn)(nil)

// guestAddr is an address in the guest.
type guestAddr struct{ target target }

// Network returns the network's name.
func (a guestAddr) Network() string { return a.target.Network }

// String returns the address.
func (a guestAddr) String() string { return a.target.Address }

// Read reads what the guest sent.
func (c *conn) Read(p []byte) (int, error) { return c.channel.out.Read(p) }

// Write writes to the guest. It waits where the guest doesn't read.
func (c *conn) Write(p []byte) (int, error) { return c.channel.in.Write(p) }

// CloseWrite tells the guest that nothing more will be written.
func (c *conn) CloseWrite() error {
	c.channel.in.finish(io.EOF)
	return nil
}

// Close closes the connection. What was written is sent all the same.
func (c *conn) Close() error {
	c.channel.linger()
	return nil
}

// LocalAddr returns an address without meaning: the agent chooses its own.
func (c *conn) LocalAddr() net.Addr { return guestAddr{target{Network: c.remote.target.Network}} }

// RemoteAddr returns the address that was dialled.
func (c *conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline sets both deadlines. See net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	c.channel.out.setReadDeadline(t)
	c.channel.in.setWriteDeadline(t)
	return nil
}

// SetReadDeadline sets the deadline of reads. See net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.channel.out.setReadDeadline(t)
	return nil
}

// SetWriteDeadline sets the deadline of writes. See net.Conn.
func (c *conn) SetWriteDeadline(t time.Time) error {
	c.channel.in.setWriteDeadline(t)
	return nil
}
