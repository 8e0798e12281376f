// The scripted daemon as a process of its own, for tests that stop it: prints its target, then
// serves until its standard input ends.
#include <cstdio>

#include "client/testing/fake_daemon.h"

int main() {
  kvstow::client::testing::FakeDaemon daemon;
  std::printf("%s\n", daemon.target().c_str());
  std::fflush(stdout);
  while (std::getchar() != EOF) {
  }
}
