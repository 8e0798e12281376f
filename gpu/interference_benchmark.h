// What the codec and a neighbour on the same GPU cost each other: a second process multiplies FP16
// matrices of 4096 x 4096 with cuBLAS, alone, while records are restored and while blocks are
// offloaded; with and without MPS; with the codec on the whole device and on eight multiprocessors
// of a green context.
#pragma once

#include <string>

namespace kvstow::gpu {

// `program` is the path of this program, which runs itself for the other roles: --interference
// starts the pairs, --interference-codec is one pair, --interference-matmul the neighbour. Returns
// the exit status.
int Interference(const std::string& program, const std::string& mode);

}  // namespace kvstow::gpu
