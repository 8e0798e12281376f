#include "gpu/interference_benchmark.h"

#include <cublas_v2.h>
#include <cuda_fp16.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <random>
#include <thread>
#include <vector>

#include "gpu/green_stream.h"
#include "gpu/testing/llama_blocks.h"

namespace kvstow::gpu {
namespace {

using testing::LlamaBlocks;
using testing::OrDie;
using Clock = std::chrono::steady_clock;

constexpr int kSize = 4096;
constexpr double kWindowSeconds = 1;
constexpr uint32_t kConfinedTo = 8;  // multiprocessors

double SecondsSince(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

void Require(bool condition, const char* what) {
  if (condition) return;
  std::perror(what);
  std::exit(1);
}

// The neighbour: multiplies from a byte on its standard input to the next, and writes the rate in
// TFLOP/s to its standard output; a zero when it is ready.
int MultiplyOnRequest() {
  cublasHandle_t blas = nullptr;
  Require(cublasCreate(&blas) == CUBLAS_STATUS_SUCCESS, "cublasCreate");
  const size_t entries = size_t{kSize} * kSize;
  std::vector<__half> random(entries);
  std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  for (__half& x : random) x = __float2half(normal(generator));
  DeviceBuffer a, b, c;
  for (DeviceBuffer* buffer : {&a, &b, &c}) {
    OrDie(buffer->Reserve(entries * sizeof(__half)));
    OrDie(cudaMemcpy(buffer->data(), random.data(), entries * sizeof(__half),
                     cudaMemcpyHostToDevice));
  }
  const float one = 1, zero = 0;
  const auto multiply = [&] {
    for (int i = 0; i < 4; ++i) {
      Require(
          cublasGemmEx(blas, CUBLAS_OP_N, CUBLAS_OP_N, kSize, kSize, kSize, &one, a.data(),
                       CUDA_R_16F, kSize, b.data(), CUDA_R_16F, kSize, &zero, c.data(), CUDA_R_16F,
                       kSize, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT) == CUBLAS_STATUS_SUCCESS,
          "cublasGemmEx");
    }
    OrDie(cudaDeviceSynchronize());
  };
  for (int i = 0; i < 20; ++i) multiply();
  const double ready = 0;
  Require(write(STDOUT_FILENO, &ready, sizeof(ready)) == sizeof(ready), "write");
  pollfd input = {STDIN_FILENO, POLLIN, 0};
  for (char request = 0; read(STDIN_FILENO, &request, 1) == 1;) {
    const auto begin = Clock::now();
    double products = 0;
    for (; poll(&input, 1, 0) == 0; products += 4) multiply();
    const double rate = 2 * std::pow(kSize, 3) * products / SecondsSince(begin) / 1e12;
    Require(read(STDIN_FILENO, &request, 1) == 1, "read");
    Require(write(STDOUT_FILENO, &rate, sizeof(rate)) == sizeof(rate), "write");
  }
  return 0;
}

class Neighbour {
 public:
  explicit Neighbour(const std::string& program) {
    int up[2], down[2];
    Require(pipe2(up, O_CLOEXEC) == 0 && pipe2(down, O_CLOEXEC) == 0, "pipe2");
    child_ = fork();
    Require(child_ >= 0, "fork");
    if (child_ == 0) {
      dup2(up[0], STDIN_FILENO);
      dup2(down[1], STDOUT_FILENO);
      execl(program.c_str(), program.c_str(), "--interference-matmul", nullptr);
      _exit(127);
    }
    close(up[0]);
    close(down[1]);
    requests_ = up[1];
    answers_ = down[0];
  }
  ~Neighbour() {
    close(requests_);
    waitpid(child_, nullptr, 0);
  }

  // TFLOP/s of the neighbour while `work` runs.
  double Rate(const std::function<void()>& work) {
    Require(write(requests_, "1", 1) == 1, "write");
    work();
    Require(write(requests_, "0", 1) == 1, "write");
    return Answer();
  }
  void WaitUntilReady() { Answer(); }

 private:
  double Answer() {
    double rate = 0;
    Require(read(answers_, &rate, sizeof(rate)) == sizeof(rate), "the neighbour ended");
    return rate;
  }

  pid_t child_;
  int requests_, answers_;
};

// Runs `work` for a while; returns GB/s of what it moves in one go.
double RateOf(const std::function<void()>& work, size_t bytes) {
  const auto begin = Clock::now();
  double done = 0;
  for (; SecondsSince(begin) < kWindowSeconds; done += static_cast<double>(bytes)) work();
  return done / SecondsSince(begin) / 1e9;
}

void PrintLoad(const std::string& name, const std::function<void()>& work, size_t bytes,
               double alone, Neighbour& neighbour) {
  const double quiet = RateOf(work, bytes);
  double beside = 0;
  const double rate = neighbour.Rate([&] { beside = RateOf(work, bytes); });
  std::printf("  %-38s neighbour %5.1f TFLOP/s (%5.1f %%)  codec %6.1f GB/s, %6.1f undisturbed\n",
              name.c_str(), rate, 100 * rate / alone, beside, quiet);
  std::fflush(stdout);
}

void PrintLoads(LlamaBlocks& blocks, const char* where, cudaStream_t stream, double alone,
                Neighbour& neighbour) {
  RestoreConfig restore_config;
  restore_config.decode_stream = stream;
  PlaneEncoderConfig encoder_config;
  encoder_config.stream = stream;
  auto restore = blocks.MakeRestore(restore_config);
  std::vector<std::unique_ptr<PlaneEncoder>> encoders;
  for (int lane = 0; lane < (stream == nullptr ? 2 : 1); ++lane) {
    encoders.push_back(blocks.MakeEncoder(encoder_config));
  }
  PrintLoad(
      std::string("encode to pinned, ") + where, [&] { blocks.Offload(encoders); },
      blocks.raw_bytes(), alone, neighbour);
  blocks.KeepRecords(*encoders.front());
  PrintLoad(
      std::string("restore from pinned, ") + where,
      [&] { blocks.Restore(*restore, LlamaBlocks::Place::kPinned); }, blocks.raw_bytes(), alone,
      neighbour);
}

int MeasurePair(const std::string& program) {
  // Before this process touches the device.
  Neighbour neighbour(program);
  LlamaBlocks blocks;
  neighbour.WaitUntilReady();
  const double alone = neighbour.Rate(
      [] { std::this_thread::sleep_for(std::chrono::duration<double>(kWindowSeconds)); });
  std::printf("  %-38s neighbour %5.1f TFLOP/s\n", "alone", alone);
  PrintLoads(blocks, "whole device", nullptr, alone, neighbour);
  auto green = GreenStream::Create(0, kConfinedTo);
  if (!green.ok()) {
    std::printf("  skipped: no green context: %s\n", green.status().ToString().c_str());
    return 0;
  }
  const std::string where = std::to_string((*green)->multiprocessors()) + " multiprocessors";
  PrintLoads(blocks, where.c_str(), (*green)->stream(), alone, neighbour);
  return 0;
}

int RunPair(const std::string& program) {
  const pid_t child = fork();
  Require(child >= 0, "fork");
  if (child == 0) {
    execl(program.c_str(), program.c_str(), "--interference-codec", nullptr);
    _exit(127);
  }
  int status = 0;
  Require(waitpid(child, &status, 0) == child, "waitpid");
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

int RunWithMps(const std::string& program) {
  if (std::system("command -v nvidia-cuda-mps-control >/dev/null") != 0) {
    std::printf("with MPS: skipped, nvidia-cuda-mps-control is not installed\n");
    return 0;
  }
  std::string folder = (std::filesystem::temp_directory_path() / "kvstow-mps-XXXXXX").string();
  Require(mkdtemp(folder.data()) != nullptr, "mkdtemp");
  setenv("CUDA_MPS_PIPE_DIRECTORY", folder.c_str(), 1);
  setenv("CUDA_MPS_LOG_DIRECTORY", folder.c_str(), 1);
  int result = 0;
  if (std::system("nvidia-cuda-mps-control -d") != 0) {
    std::printf("with MPS: skipped, its daemon does not start\n");
  } else {
    std::printf("with MPS\n");
    std::fflush(stdout);
    result = RunPair(program);
    if (result != 0) {
      std::printf("  ended early: its log says\n");
      std::fflush(stdout);
      (void)!std::system("tail -n 5 \"$CUDA_MPS_LOG_DIRECTORY\"/server.log");
    }
    (void)!std::system("echo quit | nvidia-cuda-mps-control >/dev/null");
  }
  std::filesystem::remove_all(folder);
  return result;
}

}  // namespace

int Interference(const std::string& program, const std::string& mode) {
  if (mode == "--interference-matmul") return MultiplyOnRequest();
  if (mode == "--interference-codec") return MeasurePair(program);
  std::printf("without MPS\n");
  std::fflush(stdout);
  const int result = RunPair(program);
  return result != 0 ? result : RunWithMps(program);
}

}  // namespace kvstow::gpu
