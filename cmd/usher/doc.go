// Command usher is the client's side of Usher: "usher agent" is the daemon that
// owns usher0, and every other command asks it over its unix socket
// (cmd/usher/control), or says in one sentence why it cannot.
//
// Exit statuses: 0 done; 1 refused or failed; 2 the command line is wrong; 3 no
// agent runs; 4 no right to the socket, or root is needed; 5 not logged in;
// 6 not in this version.
//
// Rules of the output. Answers go to stdout, progress and errors to stderr. An
// error is one line, "usher: …", and where there is something to type a second
// one, "hint: …". With --json stdout holds exactly one JSON value (join: the
// final one), errors too. Nothing secret is ever taken from the command line.
package main
