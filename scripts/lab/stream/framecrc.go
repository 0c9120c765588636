package stream

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// TicksPerSecond is the clock of an MPEG transport stream (ISO/IEC 13818-1).
const TicksPerSecond = 90000

// ReadFrames reads what ffmpeg's framecrc muxer wrote and returns the presentation
// times of the frames of stream 0 in ticks of 90 kHz, in the file's order. A last
// line that is cut off, as a killed ffmpeg leaves it, is passed over.
func ReadFrames(in io.Reader) ([]int64, error) {
	var numerator, denominator int64
	var frames []int64
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		line := lines.Text()
		if rest, ok := strings.CutPrefix(line, "#tb 0: "); ok {
			if _, err := fmt.Sscanf(rest, "%d/%d", &numerator, &denominator); err != nil || denominator == 0 {
				return nil, fmt.Errorf("framecrc: time base %q: want two numbers and a slash", rest)
			}
			continue
		}
		fields := strings.Split(line, ",")
		if strings.HasPrefix(line, "#") || len(fields) < 6 || strings.TrimSpace(fields[0]) != "0" {
			continue
		}
		if denominator == 0 {
			return nil, fmt.Errorf("framecrc: a frame before the time base")
		}
		pts, err := strconv.ParseInt(strings.TrimSpace(fields[2]), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("framecrc: presentation time %q: %w", fields[2], err)
		}
		frames = append(frames, pts*numerator*TicksPerSecond/denominator)
	}
	return frames, lines.Err()
}
