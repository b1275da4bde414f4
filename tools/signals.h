// What the command line does about signals and about the streams that it was started with; called by main, once, before
// all else. The libraries install no handlers: a program that embeds them has its own.
//
//   SIGPIPE, SIGXFSZ         ignored: a reader that is gone and a file that may not grow are errors of the write
//   SIGINT, SIGTERM, SIGHUP  remove temporary files, say so in a line, and end the process by the signal itself: a
//                            shell sees 130, 143 or 129; where the parent had them ignored (nohup) they stay so
//   SIGBUS                   a mapped file was cut short, or its disk fails: names the file and exits with 4, temporary
//                            files removed; anywhere else it is what it was, a crash
//   operator new             memory ran out: says so and exits with 6, without unwinding
//
// Handlers call only what is async-signal-safe (man 7 signal-safety).
#pragma once

namespace sinter {

// Also keeps descriptors 0 to 2 taken: where stdout was closed, the next file to be opened would become it. What was
// closed stays unusable, so that writing results is an error.
void TakeSignals();

}  // namespace sinter
