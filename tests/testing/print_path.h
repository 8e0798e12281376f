// How GoogleTest prints a data path.
#pragma once

#include <ostream>
#include <string>

#include "kvstow/client.h"

namespace kvstow {

inline void PrintTo(DataPath path, std::ostream* out) { *out << std::string(Name(path)); }

}  // namespace kvstow
