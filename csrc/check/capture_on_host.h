// Streams of a device that the host plays, and what is captured of them. A stream does at once what
// it is asked for, unless this thread captures it: then that is kept, and done whenever the graph
// is launched. Memory that is allocated meanwhile belongs to the graph and is garbage before its
// node of allocation has run and after that of its release, since a graph may use it otherwise.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <functional>
#include <memory>
#include <vector>

using cudaStream_t = void*;
enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorIllegalState = 401,
    cudaErrorStreamCaptureUnsupported = 900,
    cudaErrorStreamCaptureInvalidated = 901,
    cudaErrorStreamCaptureImplicit = 906
};
const char* cudaGetErrorName(cudaError_t code);
const char* cudaGetErrorString(cudaError_t code);

namespace minillm::on_host {

// What a stream was asked for while it was captured. Its memory lives as long as it does.
class Recording {
 public:
    void run() const;

 private:
    friend class Capture;
    std::vector<std::function<void()>> nodes_;
    std::vector<std::shared_ptr<void>> memory_;
};

// Does the work of a stream, or keeps it; an error where a capture forbids it, which spoils that.
cudaError_t perform(cudaStream_t stream, std::function<void()> work);
cudaError_t allocate_async(void** data, size_t bytes, cudaStream_t stream);
cudaError_t free_async(void* data, cudaStream_t stream);
cudaError_t forbidden_in_capture();  // success where this thread captures nothing
uint64_t asked();  // how often streams were asked for work, memory aside, since the beginning

// For a stand-in of CuPy, which keeps work of its own in between: what this thread asks of any
// stream is kept; `cut` hands out what was kept since the beginning or the last cut.
void begin_capture();
std::shared_ptr<Recording> cut();
std::shared_ptr<Recording> end_capture();
void refuse_captures(bool refused);  // as a driver would for a reason of its own
int64_t graphs();                    // that can be launched
int64_t launched_graphs();

}  // namespace minillm::on_host

struct MinillmGraph {
    std::shared_ptr<minillm::on_host::Recording> recording;
};
struct MinillmGraphExec {
    std::shared_ptr<minillm::on_host::Recording> recording;
};
using cudaGraph_t = MinillmGraph*;
using cudaGraphExec_t = MinillmGraphExec*;
enum cudaStreamCaptureMode { cudaStreamCaptureModeRelaxed = 2 };
constexpr unsigned cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2;
using cudaEvent_t = void*;

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* exec, cudaGraph_t graph,
                                          unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);

cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
