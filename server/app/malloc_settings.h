// How glibc's malloc serves a program whose buffers come and go at gigabytes a second.
#pragma once

namespace kvstow {

// Bulk buffers are of up to a plane's size; with glibc's defaults each is an mmap and a page fault
// every 4 KiB. For the start of a program.
void TuneMalloc();

}  // namespace kvstow
