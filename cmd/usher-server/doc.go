// Command usher-server is the management server and the commands that fill its
// database: init makes a server, run serves; group, client and event say who
// may take part in what.
//
// All commands but init, run, ca, version and config open the database
// themselves; a running server sees what they did within half a second. So
// they work with the server down, and ask for the same rights as it has.
//
// Exit status: 0 done, 1 failed, 2 a command line that makes no sense,
// 6 not in this version. With --json the answer is one JSON value on standard
// output, also for an error: {"error": {"code", "message"}}.
//
// Passwords are read from a prompt or a file, never from the command line.
package main
