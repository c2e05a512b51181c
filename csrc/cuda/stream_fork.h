// StreamFork: a fork and a join of CUDA streams as a scope.
//
//   StreamFork fork(stream, lanes);       // the lanes wait for what `stream` has queued so far
//   ... launch on fork.lane(i) ...
//   }                                     // `stream` waits for the lanes, exception or not
//
// Lane 0 is the caller's stream itself, so that one lane costs nothing. Buffers that the lanes use
// must be allocated on the caller's stream before the fork; since the caller waits for every lane
// before they are freed, no record_stream is needed. Legal under graph capture: the side streams
// enter it through the event they wait for, and leave it at the join.
#pragma once

#include <ATen/cuda/CUDAEvent.h>
#include <c10/cuda/CUDAStream.h>

#include <algorithm>
#include <vector>

namespace dcn {

// A stream from `draw` that is not among `taken`. PyTorch's pool hands out its 32 streams in turn,
// the caller's own among them if it came from there. After a whole turn without a new one lanes
// share a stream: that costs their overlap and nothing else.
template <typename Draw>
c10::cuda::CUDAStream stream_beside(const std::vector<c10::cuda::CUDAStream>& taken, Draw&& draw) {
  constexpr int kPoolStreams = 32;
  c10::cuda::CUDAStream stream = draw();
  for (int drawn = 1; drawn < kPoolStreams; ++drawn) {
    if (std::find(taken.begin(), taken.end(), stream) == taken.end()) break;
    stream = draw();
  }
  return stream;
}

class StreamFork {
 public:
  StreamFork(c10::cuda::CUDAStream caller, int lanes) : streams_{caller} {
    if (lanes <= 1) return;
    at::cuda::CUDAEvent fork;
    fork.record(caller);
    streams_.reserve(lanes);
    joins_.reserve(lanes - 1);
    const auto draw = [&] {
      return c10::cuda::getStreamFromPool(/*isHighPriority=*/false, caller.device_index());
    };
    for (int i = 1; i < lanes; ++i) {
      streams_.push_back(stream_beside(streams_, draw));
      joins_.emplace_back();
      fork.block(streams_.back());
    }
  }

  ~StreamFork() {
    for (size_t i = 0; i < joins_.size(); ++i) {
      try {
        joins_[i].record(streams_[i + 1]);
        joins_[i].block(streams_[0]);
      } catch (...) {
        // A context that cannot record an event is lost, and the next CUDA call of the caller says
        // so.
      }
    }
  }

  StreamFork(const StreamFork&) = delete;
  StreamFork& operator=(const StreamFork&) = delete;

  int lanes() const { return static_cast<int>(streams_.size()); }
  c10::cuda::CUDAStream lane(int i) const { return streams_[i]; }

 private:
  std::vector<c10::cuda::CUDAStream> streams_;
  std::vector<at::cuda::CUDAEvent> joins_;
};

}  // namespace dcn
