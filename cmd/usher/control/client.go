package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"

	"golang.org/x/sys/unix"
)

// maxAnswer bounds what the client reads of an answer, in bytes.
const maxAnswer = 64 << 20

// Client asks an agent over its socket. It holds nothing open between calls.
// Errors wrap [ErrNoAgent], [ErrNoRight] or [ErrAnswer], or are an *Error.
type Client struct {
	socket string
	http   *http.Client
}

// NewClient makes a client of the agent at the socket.
func NewClient(socket string) *Client {
	return &Client{socket: socket, http: &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}}
}

// Status asks for the status.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	return get[Status](ctx, c, "/v1/status")
}

// Events asks for the events of held tickets.
func (c *Client) Events(ctx context.Context) (*Events, error) {
	return get[Events](ctx, c, "/v1/events")
}

// SAs asks for the associations, with their keys where showKeys.
func (c *Client) SAs(ctx context.Context, showKeys bool) (*SAs, error) {
	if showKeys {
		return get[SAs](ctx, c, "/v1/sa?show_keys=1")
	}
	return get[SAs](ctx, c, "/v1/sa")
}

// Policies asks for the policies.
func (c *Client) Policies(ctx context.Context) (*Policies, error) {
	return get[Policies](ctx, c, "/v1/policy")
}

// Login logs in. The caller wipes the request.
func (c *Client) Login(ctx context.Context, r *LoginRequest) (*LoginResult, error) {
	return post[LoginResult](ctx, c, "/v1/login", r)
}

// Logout forgets identity, tickets and joins.
func (c *Client) Logout(ctx context.Context) (*Done, error) {
	return post[Done](ctx, c, "/v1/logout", nil)
}

// Up makes the agent load its configuration and set the host up.
func (c *Client) Up(ctx context.Context) (*Done, error) { return post[Done](ctx, c, "/v1/up", nil) }

// Down makes the agent remove interface, routes and guard.
func (c *Client) Down(ctx context.Context) (*Done, error) { return post[Done](ctx, c, "/v1/down", nil) }

// Leave leaves events.
func (c *Client) Leave(ctx context.Context, r *LeaveRequest) (*Events, error) {
	return post[Events](ctx, c, "/v1/leave", r)
}

// Join joins events, and calls news for each of them and at each change, until
// the agent has nothing more to tell.
func (c *Client) Join(ctx context.Context, r *JoinRequest, news func(Event)) error {
	resp, err := c.do(ctx, http.MethodPost, "/v1/join", r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	d := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer))
	for {
		var l JoinLine
		if err := d.Decode(&l); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("%w: it ended in the middle of a join; ask usher status", ErrAnswer)
		}
		if l.Event != nil {
			news(*l.Event)
		}
		if l.Error != nil {
			return l.Error
		}
		if l.Done {
			return nil
		}
	}
}

func get[T any](ctx context.Context, c *Client, path string) (*T, error) {
	return call[T](ctx, c, http.MethodGet, path, nil)
}

func post[T any](ctx context.Context, c *Client, path string, body any) (*T, error) {
	return call[T](ctx, c, http.MethodPost, path, body)
}

func call[T any](ctx context.Context, c *Client, method, path string, body any) (*T, error) {
	resp, err := c.do(ctx, method, path, body)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	v := new(T)
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(v); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrAnswer, path, err)
	}
	return v, nil
}

// do sends a request, and turns what is not 200 into an error.
func (c *Client) do(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var buf bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&buf).Encode(body); err != nil {
			return nil, fmt.Errorf("control: %s: %w", path, err)
		}
		defer func() { clear(buf.Bytes()) }() // a password may have been in it
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://usher-agent"+path, bytes.NewReader(buf.Bytes()))
	if err != nil {
		return nil, fmt.Errorf("control: %s: %w", path, err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.dialError(err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	var e Error
	if err := json.NewDecoder(io.LimitReader(resp.Body, MaxBody)).Decode(&e); err != nil || e.Message == "" {
		return nil, fmt.Errorf("%w: %s", ErrAnswer, resp.Status)
	}
	return nil, &e
}

// dialError tells the two things apart that people take for one: no agent, and
// no right to ask it.
func (c *Client) dialError(err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w %s", ErrNoRight, c.socket)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ENOTDIR):
		return fmt.Errorf("%w (nothing answers at %s)", ErrNoAgent, c.socket)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, io.EOF), errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w: it ended before it answered", ErrNoAgent)
	}
	return fmt.Errorf("%w: %w", ErrAnswer, err)
}
