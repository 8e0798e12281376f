#include "client/socket_buffers.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "gtest/gtest.h"
#include "staging/shared_region.h"

namespace kvstow::client {
namespace {

sockaddr_un AddressOf(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  return address;
}

OwnedFd ListenAt(const std::string& path) {
  OwnedFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_un address = AddressOf(path);
  EXPECT_EQ(bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  EXPECT_EQ(listen(fd.get(), 1), 0);
  return fd;
}

OwnedFd ConnectTo(const std::string& path) {
  OwnedFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_un address = AddressOf(path);
  EXPECT_EQ(connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  // Smaller than any kernel's limit.
  const int little = 8192;
  setsockopt(fd.get(), SOL_SOCKET, SO_SNDBUF, &little, sizeof(little));
  return fd;
}

int SendBytes(const OwnedFd& fd) {
  int bytes = 0;
  socklen_t size = sizeof(bytes);
  getsockopt(fd.get(), SOL_SOCKET, SO_SNDBUF, &bytes, &size);
  return bytes;
}

TEST(SocketBuffersTest, OnlySocketsToTheDaemonAreWidened) {
  std::string folder = "/tmp/kvstow-XXXXXX";
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  const std::string daemon = folder + "/d.sock", other = folder + "/d.sock2";
  {
    const OwnedFd listens = ListenAt(daemon), listens_too = ListenAt(other);
    const OwnedFd to_daemon = ConnectTo(daemon), to_other = ConnectTo(other);
    const int before = SendBytes(to_other);
    ASSERT_EQ(SendBytes(to_daemon), before);
    WidenSendBuffers(daemon);
    EXPECT_GT(SendBytes(to_daemon), before);
    EXPECT_EQ(SendBytes(to_other), before);
  }
  unlink(daemon.c_str());
  unlink(other.c_str());
  rmdir(folder.c_str());
}

}  // namespace
}  // namespace kvstow::client
