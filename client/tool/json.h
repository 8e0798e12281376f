// Messages as JSON for scripts.
#pragma once

#include <google/protobuf/message.h>

#include <string>

namespace kvstow::tool {

// One line without a newline; every field under its name in the .proto, defaults included.
std::string Json(const google::protobuf::Message& message);

}  // namespace kvstow::tool
