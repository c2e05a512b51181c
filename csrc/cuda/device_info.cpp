#include "device_info.h"

#include <ATen/cuda/CUDAContext.h>

#include <deque>
#include <mutex>

namespace dcn {
namespace {

DeviceInfo read(c10::DeviceIndex device) {
  const cudaDeviceProp* properties = at::cuda::getDeviceProperties(device);
  DeviceInfo info;
  info.name = properties->name;
  info.is_cuda = true;
  info.compute_capability = properties->major * 10 + properties->minor;
  info.multiprocessors = properties->multiProcessorCount;
  info.l2_bytes = properties->l2CacheSize;
  return info;
}

}  // namespace

const DeviceInfo& device_info(c10::DeviceIndex device) {
  static std::mutex mutex;
  static std::deque<std::optional<DeviceInfo>> infos;  // a deque keeps references valid as it grows
  std::lock_guard<std::mutex> lock(mutex);
  while (static_cast<size_t>(device) >= infos.size()) infos.emplace_back();
  if (!infos[device]) infos[device] = read(device);
  return *infos[device];
}

}  // namespace dcn
