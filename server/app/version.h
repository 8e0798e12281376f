#pragma once

namespace kvstow {

// Set by CMake from the project's version.
inline constexpr char kVersion[] = KVSTOW_VERSION;

}  // namespace kvstow
