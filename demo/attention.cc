#include "demo/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>

namespace kvstow {
namespace {

// Widens IEEE binary16, infinities and NaN included.
double Half(const std::byte* at) {
  uint16_t bits;
  std::memcpy(&bits, at, sizeof(bits));
  const int exponent = (bits >> 10) & 31;
  const double fraction = bits & 1023;
  const double magnitude = exponent == 0    ? std::ldexp(fraction, -24)
                           : exponent == 31 ? (fraction == 0 ? INFINITY : NAN)
                                            : std::ldexp(1024 + fraction, exponent - 25);
  return bits & 0x8000 ? -magnitude : magnitude;
}

// Rows [tokens, d] of one head in double.
using Rows = std::vector<double>;

void Append(const std::byte* from, size_t elements, Rows* rows) {
  for (size_t i = 0; i < elements; ++i) rows->push_back(Half(from + 2 * i));
}

// Exact or restored prefix of a head, then branch's own tail.
Rows HeadRows(const DemoTrace& trace, size_t layer, size_t head, PlaneKind kind,
              const RestoredPrefix* restored) {
  const size_t d = trace.dim(), n = trace.spec.block_tokens;
  const NpyArray& tail = kind == PlaneKind::kK ? trace.branch_tail_k : trace.branch_tail_v;
  Rows rows;
  for (size_t block = 0; block < DemoTrace::kShared / n; ++block) {
    if (restored != nullptr) {
      const auto& planes = kind == PlaneKind::kK ? restored->k : restored->v;
      Append(planes[layer][block].data() + head * n * d * 2, n * d, &rows);
    } else {
      const auto plane = trace.TextPlane(layer, kind, block);
      Append(plane.data() + head * n * d * 2, n * d, &rows);
    }
  }
  const size_t tail_elements = tail.shape[2] * d;
  Append(tail.data.data() + (layer * trace.heads() + head) * tail_elements * 2, tail_elements,
         &rows);
  return rows;
}

// softmax(q K^T / sqrt d) V over the first `visible` rows.
std::vector<double> Attend(std::span<const double> q, const Rows& k, const Rows& v,
                           size_t visible) {
  const size_t d = q.size();
  std::vector<double> weights(visible), out(d, 0.0);
  for (size_t t = 0; t < visible; ++t) {
    for (size_t c = 0; c < d; ++c) weights[t] += q[c] * k[t * d + c];
    weights[t] /= std::sqrt(static_cast<double>(d));
  }
  const double largest = *std::max_element(weights.begin(), weights.end());
  double sum = 0;
  for (double& w : weights) sum += w = std::exp(w - largest);
  for (size_t t = 0; t < visible; ++t) {
    for (size_t c = 0; c < d; ++c) out[c] += weights[t] / sum * v[t * d + c];
  }
  return out;
}

}  // namespace

double AttentionOutputError(const DemoTrace& trace, const RestoredPrefix& restored) {
  const size_t d = trace.dim();
  const size_t query_heads = trace.branch_q.shape[1], queries = trace.branch_q.shape[2];
  const size_t group = query_heads / trace.heads();
  double error = 0, energy = 0;
  for (size_t layer = 0; layer < trace.layers(); ++layer) {
    for (size_t head = 0; head < trace.heads(); ++head) {
      const Rows k = HeadRows(trace, layer, head, PlaneKind::kK, nullptr);
      const Rows v = HeadRows(trace, layer, head, PlaneKind::kV, nullptr);
      const Rows k2 = HeadRows(trace, layer, head, PlaneKind::kK, &restored);
      const Rows v2 = HeadRows(trace, layer, head, PlaneKind::kV, &restored);
      const size_t tokens = k.size() / d;
      for (size_t i = 0; i < group * queries; ++i) {
        Rows q;
        const size_t row = (layer * query_heads + head * group) * queries + i;
        Append(trace.branch_q.data.data() + row * d * 2, d, &q);
        const size_t visible = tokens - queries + i % queries + 1;
        const auto exact = Attend(q, k, v, visible), got = Attend(q, k2, v2, visible);
        for (size_t c = 0; c < d; ++c) {
          error += (got[c] - exact[c]) * (got[c] - exact[c]);
          energy += exact[c] * exact[c];
        }
      }
    }
  }
  return error / energy;
}

double BlockNmse(const DemoTrace& trace, const RestoredPrefix& restored, PlaneKind kind,
                 size_t block) {
  double error = 0, energy = 0;
  for (size_t layer = 0; layer < trace.layers(); ++layer) {
    const auto exact = trace.TextPlane(layer, kind, block);
    const auto& got = (kind == PlaneKind::kK ? restored.k : restored.v)[layer][block];
    for (size_t i = 0; i < exact.size(); i += 2) {
      const double x = Half(&exact[i]), y = Half(&got[i]);
      error += (x - y) * (x - y);
      energy += x * x;
    }
  }
  return error / energy;
}

}  // namespace kvstow
