package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"usher/scripts/lab"
)

// perform plays the event: several things at once, each with its own instants.
func (s *show) perform(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wait sync.WaitGroup
	do := func(part string, f func(context.Context) error) {
		wait.Go(func() {
			if err := f(ctx); err != nil {
				cancel(fmt.Errorf("%s: %w", part, err))
			}
		})
	}
	if err := s.prepareOutsiderAndEars(); err != nil {
		return err
	}
	defer func() {
		for _, ear := range s.record.ears {
			ear.close()
		}
	}()
	do("sender", s.send)
	do("alice", func(ctx context.Context) error { return s.watch(ctx, "alice", playersStart, 0) })
	do("bob", func(ctx context.Context) error { return s.watch(ctx, "bob", playersStart, 0) })
	do("carol", func(ctx context.Context) error { return s.watch(ctx, "carol", carolListens, carolJoins) })
	do("bob's agent", s.killBobsAgent)
	do("server", s.stopServers)
	do("suspension", s.suspendBob)
	do("mallory", s.outsiderActs)
	do("keys", s.exportKeys)
	wait.Wait()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	return s.until(ctx, allOver)
}

// send starts ffmpeg before the agent has a key, and joins only then.
func (s *show) send(ctx context.Context) error {
	s.record.sentFrames = filepath.Join(s.dir, "sender.framecrc")
	s.record.senderRanBefore = time.Now()
	length := s.start.Add(streamEnds).Sub(s.record.senderRanBefore)
	s.say("sender: ffmpeg starts, before its agent has a key")
	ffmpeg, err := s.spawn(ctx, "sender", "sender-ffmpeg.log", "ffmpeg", "-hide_banner", "-loglevel", "warning", "-nostdin",
		"-re", "-f", "lavfi", "-i", fmt.Sprintf("testsrc2=size=640x360:rate=%d", framesASecond),
		"-t", fmt.Sprintf("%.3f", length.Seconds()), "-map", "0:v",
		"-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-g", fmt.Sprint(framesASecond), "-b:v", "1500k", "-pix_fmt", "yuv420p",
		"-f", "tee", fmt.Sprintf(`[f=mpegts:mpegts_copyts=1:mpegts_flags=pat_pmt_at_frames]udp\://%s\:%d?pkt_size=%d&ttl=8|[f=framecrc]%s`, group, port, datagramLen, s.record.sentFrames))
	if err != nil {
		return err
	}
	if err := s.join(ctx, "sender"); err != nil {
		return err
	}
	if err := ffmpeg.wait(ctx); err != nil {
		return err
	}
	s.record.senderExit = ffmpeg.cmd.ProcessState.ExitCode()
	s.say("sender: ffmpeg ends with status %d", s.record.senderExit)
	return nil
}

// join runs `usher join` and notes when it was called.
func (s *show) join(ctx context.Context, name string) error {
	s.record.mark(s.record.joined, name)
	s.say("%s: usher join %q", name, title)
	text, err := s.usher(ctx, name, "join", title)
	if err != nil {
		return err
	}
	s.say("%s: %s", name, strings.SplitN(strings.TrimSpace(text), "\n", 2)[0])
	return nil
}

// mark notes that something happened now; several parts of the show do.
func (r *record) mark(m map[string]time.Time, name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m[name] = time.Now()
}

// watch joins, at once where joinAt is 0, and has a player listen before the first
// packet can come.
func (s *show) watch(ctx context.Context, name string, playerAt, joinAt time.Duration) error {
	if joinAt == 0 {
		// Joined well before: the agent draws its instant by itself.
		if err := s.join(ctx, name); err != nil {
			return err
		}
	}
	if err := s.until(ctx, playerAt); err != nil {
		return err
	}
	if err := s.record.ears[name].listen(s.hosts[name]); err != nil {
		return err
	}
	player, err := s.startPlayer(ctx, name)
	if err != nil {
		return err
	}
	if joinAt != 0 {
		if err := s.until(ctx, joinAt); err != nil {
			return err
		}
		if err := s.join(ctx, name); err != nil {
			return err
		}
	}
	if err := player.wait(ctx); err != nil {
		return err
	}
	s.say("%s: nothing comes any more, the player ends", name)
	return nil
}

// startPlayer starts ffmpeg as a player, with no option that names an interface.
func (s *show) startPlayer(ctx context.Context, name string) (*process, error) {
	if err := os.MkdirAll(s.record.thumbnails[name], 0o755); err != nil {
		return nil, err
	}
	url := fmt.Sprintf("udp://%s:%d?sources=%s&timeout=%d", group, port, senderAddress, playerPatience.Microseconds())
	player, err := s.spawn(ctx, name, name+"-ffmpeg.log", "ffmpeg", "-hide_banner", "-loglevel", "warning", "-nostdin",
		"-copyts", "-i", url,
		"-map", "0:v", "-fps_mode", "passthrough", "-enc_time_base", "-1", "-f", "framecrc", s.record.decoded[name],
		"-map", "0:v", "-vf", fmt.Sprintf("select='not(mod(round(t*%d),%d))',scale=128:-2", framesASecond, framesASecond),
		"-fps_mode", "passthrough", "-enc_time_base", fmt.Sprintf("1/%d", framesASecond), "-frame_pts", "1", "-q:v", "6",
		filepath.Join(s.record.thumbnails[name], "%08d.jpg"))
	if err != nil {
		return nil, err
	}
	// A player that is not listening yet when the first packet comes has not been
	// started before it.
	s.record.mark(s.record.playerStarted, name)
	return player, lab.Within(5*time.Second, "the player of "+name, func() error {
		sockets, err := s.hosts[name].Run(ctx, "cat", "/proc/net/udp")
		if err != nil {
			return err
		}
		if n := strings.Count(sockets, fmt.Sprintf(":%04X ", port)); n <= len(s.record.ears[name].conns) {
			return fmt.Errorf("%d sockets on port %d", n, port)
		}
		return nil
	})
}

// killBobsAgent kills bob's agent and starts it again; nobody logs in or joins.
func (s *show) killBobsAgent(ctx context.Context) error {
	if err := s.until(ctx, bobKilled); err != nil {
		return err
	}
	if err := s.agents["bob"].end(ctx, syscall.SIGKILL); err != nil {
		return err
	}
	s.record.bobKilled = time.Now()
	s.say("bob: his agent is killed (SIGKILL)")
	if err := s.until(ctx, bobRestarted); err != nil {
		return err
	}
	if err := s.startAgent(ctx, "bob"); err != nil {
		return err
	}
	s.record.bobBack = time.Now()
	s.say("bob: his agent runs again, and keys by itself")
	return nil
}

// stopServers ends both roles in the middle of an interval, and starts them again.
func (s *show) stopServers(ctx context.Context) error {
	if err := s.until(ctx, serversStop); err != nil {
		return err
	}
	if err := s.server.end(ctx, syscall.SIGTERM); err != nil {
		return err
	}
	s.record.serversDown = time.Now()
	s.say("server: both roles are stopped")
	if err := s.until(ctx, serversStart); err != nil {
		return err
	}
	if err := s.runServer(ctx); err != nil {
		return err
	}
	s.record.serversBack = time.Now()
	s.say("server: both roles run again")
	return nil
}

// suspendBob suspends bob and reads which keys he holds.
func (s *show) suspendBob(ctx context.Context) error {
	if err := s.until(ctx, bobSuspended); err != nil {
		return err
	}
	if _, err := s.manage(ctx, "client", "suspend", "bob"); err != nil {
		return err
	}
	s.record.suspended = time.Now()
	s.say("server: usher-server client suspend bob")
	if err := s.until(ctx, bobAsked); err != nil {
		return err
	}
	keys, err := s.associations(ctx, "bob")
	if err != nil {
		return err
	}
	for _, key := range keys {
		s.record.bobKeys = append(s.record.bobKeys, key.SPI)
	}
	s.say("bob: holds the keys %s", strings.Join(s.record.bobKeys, ", "))
	return nil
}

// associations reads `usher sa --json`.
func (s *show) associations(ctx context.Context, name string, args ...string) ([]exportedKey, error) {
	text, err := s.usher(ctx, name, append([]string{"sa", "--json"}, args...)...)
	if err != nil {
		return nil, err
	}
	var listed struct {
		SAs []exportedKey `json:"sas"`
	}
	if err := json.Unmarshal([]byte(text), &listed); err != nil {
		return nil, fmt.Errorf("usher sa --json on %s: %w", name, err)
	}
	return listed.SAs, nil
}

// exportKeys collects the keys of all intervals from alice, for tshark.
func (s *show) exportKeys(ctx context.Context) error {
	for at := -initial + interval; at < streamEnds; at += interval / 2 {
		if err := s.until(ctx, at); err != nil {
			return err
		}
		keys, err := s.associations(ctx, "alice", "--show-keys")
		if err != nil {
			return err
		}
		for _, key := range keys {
			s.record.keys[key.SPI] = key
		}
	}
	return nil
}
