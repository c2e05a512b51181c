// The DeviceInfo of a CUDA device, read once per device.
#pragma once

#include <c10/core/Device.h>

#include "../plan.h"

namespace dcn {

const DeviceInfo& device_info(c10::DeviceIndex device);

}  // namespace dcn
