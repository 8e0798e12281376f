// Makes a normal program of a fuzz target: replays every file of the folders it is given, then a
// fixed number of seeded mutations of them. The same inputs every time.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

constexpr int kMutations = 2000;
constexpr uint64_t kSeed = 20240607;

using Bytes = std::vector<uint8_t>;

std::vector<Bytes> ReadAll(const std::string& folder) {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.is_regular_file()) paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());  // the directory's order is nobody's promise
  std::vector<Bytes> files;
  for (const auto& path : paths) {
    std::ifstream in(path, std::ios::binary);
    files.emplace_back(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
  }
  return files;
}

void Mutate(std::mt19937_64& random, Bytes* bytes) {
  const size_t edits = 1 + random() % 4;
  for (size_t i = 0; i < edits && !bytes->empty(); ++i) {
    // Half of the edits in the first 300 bytes, where the structure is.
    const size_t reach = random() % 2 == 0 ? std::min<size_t>(300, bytes->size()) : bytes->size();
    (*bytes)[random() % reach] = static_cast<uint8_t>(random());
  }
  if (random() % 8 == 0) bytes->resize(random() % (bytes->size() + 1));
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<Bytes> inputs;
  for (int i = 1; i < argc; ++i) {
    for (Bytes& file : ReadAll(argv[i])) inputs.push_back(std::move(file));
  }
  if (inputs.empty()) {
    std::fprintf(stderr, "no inputs: name the folders of the corpus\n");
    return 1;
  }
  for (const Bytes& input : inputs) LLVMFuzzerTestOneInput(input.data(), input.size());
  std::mt19937_64 random(kSeed);
  for (int i = 0; i < kMutations; ++i) {
    Bytes bytes = inputs[static_cast<size_t>(i) % inputs.size()];
    Mutate(random, &bytes);
    LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
  }
  std::printf("%zu inputs, %d mutations\n", inputs.size(), kMutations);
  return 0;
}
