// What a kvstow_coder is behind the C ABI. Internal.
#pragma once

#include <memory>

#include "client/kvstow/coding.h"
#include "client/kvstow/kvstow.h"

struct kvstow_coder {
  std::shared_ptr<kvstow::PlaneCoder> coder;
};
