// The emulated GPU's memory: what a kernel may touch, and guards on both sides that show what it
// touched without being allowed to.
#pragma once

#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "cuda_language.h"
#include "fused_layout.h"

namespace emulation {

template <typename T>
class DeviceArray {
 public:
  // NaN at the start.
  explicit DeviceArray(int64_t count)
      : bytes_(count * static_cast<int64_t>(sizeof(T))),
        whole_((bytes_ + 2 * kGuard + 255) / 256 * 256),
        memory_(static_cast<uint8_t*>(std::aligned_alloc(256, static_cast<size_t>(whole_)))) {
    std::memset(memory_.get(), 0xff, static_cast<size_t>(whole_));
    allow(data(), bytes_);
  }
  static DeviceArray zeros(int64_t count) {
    DeviceArray array(count);
    std::memset(array.data(), 0, static_cast<size_t>(array.bytes_));
    return array;
  }
  T* data() { return reinterpret_cast<T*>(memory_.get() + kGuard); }
  T& operator[](int64_t i) { return data()[i]; }
  bool guards_intact() const {
    for (int64_t i = 0; i < whole_; ++i) {
      if ((i < kGuard || i >= kGuard + bytes_) && memory_.get()[i] != 0xff) return false;
    }
    return true;
  }

 private:
  static constexpr int64_t kGuard = 256;
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  int64_t bytes_, whole_;
  std::unique_ptr<uint8_t, Free> memory_;
};

template <typename T>
DeviceArray<T> to_device(const std::vector<float>& values) {
  DeviceArray<T> array(static_cast<int64_t>(values.size()));
  for (size_t i = 0; i < values.size(); ++i) array[static_cast<int64_t>(i)] = T(values[i]);
  return array;
}

// Pixels of `channels` channels to rows of layout.channels, zeros where the layout pads.
template <typename T>
DeviceArray<T> padded_to_device(const std::vector<float>& values, int32_t channels, int32_t groups,
                                const dcn::FusedLayout& layout) {
  const int64_t pixels = static_cast<int64_t>(values.size()) / channels;
  const int32_t per_group = channels / groups;
  auto array = DeviceArray<T>::zeros(pixels * layout.channels);
  for (int64_t pixel = 0; pixel < pixels; ++pixel) {
    for (int32_t i = 0; i < layout.channels; ++i) {
      const int32_t group = i / layout.group_channels, inside = i % layout.group_channels;
      const int32_t channel = layout.padded() ? dcn::unpadded_channel(layout, inside) : inside;
      if (channel < 0) continue;
      array[pixel * layout.channels + i] =
          T(values[pixel * channels + group * per_group + channel]);
    }
  }
  return array;
}

template <typename T>
std::vector<float> to_host(DeviceArray<T>& array, int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) values[static_cast<size_t>(i)] = static_cast<float>(array[i]);
  return values;
}

}  // namespace emulation
