package wire

import "fmt"

// ContentTypeProblem is the content type of errors by HTTPS (RFC 9457).
const ContentTypeProblem = "application/problem+json"

// Codes of a [Problem]: stable, for programs. The status beside each is usual.
const (
	CodeWithheld         = "withheld"            // 403: suspended
	CodeNotAMember       = "not_a_member"        // 403
	CodeNotASender       = "not_a_sender"        // 403
	CodeBadTicket        = "bad_ticket"          // 403
	CodeExpiredTicket    = "expired_ticket"      // 403
	CodeBadLogin         = "bad_login"           // 401
	CodeNoSuchEvent      = "no_such_event"       // 404
	CodeEnded            = "ended"               // 410
	CodeNotYet           = "not_yet"             // 425, with Retry-After
	CodeSenderIDs        = "sender_ids"          // 429
	CodeClock            = "clock"               // 503
	CodeStore            = "store"               // 503
	CodeBadRequest       = "bad_request"         // 400
	CodeNotInThisVersion = "not_in_this_version" // 501
)

// Problem is an error by HTTPS (RFC 9457). Detail is for people and safe to
// show: what concerns the server's inside stays in its log.
//
//	{"status": 403, "code": "withheld", "detail": "…"}
type Problem struct {
	Status int    `json:"status"`
	Code   string `json:"code"`
	Detail string `json:"detail"`
}

// Error says what the server said.
func (p *Problem) Error() string {
	if p.Detail == "" {
		return fmt.Sprintf("server refuses: %s (HTTP %d)", p.Code, p.Status)
	}
	return fmt.Sprintf("server refuses: %s (HTTP %d, %s)", p.Detail, p.Status, p.Code)
}
