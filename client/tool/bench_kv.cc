#include "client/tool/bench_kv.h"

#include <algorithm>
#include <span>
#include <vector>

namespace kvstow::tool {
namespace {

class HostKv final : public BenchKv {
 public:
  HostKv(const PlaneLayout& layout, const BenchData* data) : data_(*data) {
    for (const PlaneSpec& plane : layout.planes()) {
      scratch_.resize(std::max(scratch_.size(), plane.raw_bytes));
    }
  }
  void Give(const PlaneLayout& layout, PutBlocksRequest* request) override {
    request->source = [this, first = layout.planes().data()](const PlaneSpec& plane, size_t block) {
      return data_.Plane(static_cast<size_t>(&plane - first), block);
    };
  }
  void Take(const PlaneLayout& /*layout*/, GetBlocksRequest* request) override {
    request->destination = [this](const PlaneSpec& plane, size_t) {
      return std::span(scratch_).first(plane.raw_bytes);
    };
  }

 private:
  const BenchData& data_;
  std::vector<std::byte> scratch_;
};

}  // namespace

std::unique_ptr<BenchKv> MakeHostKv(const PlaneLayout& layout, const BenchData* data) {
  return std::make_unique<HostKv>(layout, data);
}

}  // namespace kvstow::tool
