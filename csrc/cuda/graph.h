// Launches that were captured once and are repeated by one call.
#pragma once

#include <utility>

#include "launch.h"

namespace minillm::device {

// A stream in place of the current one of this thread, for a while.
class CurrentStream {
 public:
    explicit CurrentStream(cudaStream_t stream) : before_(current_stream()) {
        set_current_stream(stream);
    }
    ~CurrentStream() { set_current_stream(before_); }
    CurrentStream(const CurrentStream&) = delete;
    CurrentStream& operator=(const CurrentStream&) = delete;

 private:
    cudaStream_t before_;
};

// What `work` launches on the current stream. It is captured of another: the one that all others
// wait for, which is often the current one, cannot be (cudaStreamBeginCapture). Other threads may
// allocate meanwhile: the capture is a relaxed one.
class Graph {
 public:
    template <class Work>
    Graph(cudaStream_t stream, const Work& work) {
        const CurrentStream during(stream);
        check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed), "capture");
        try {
            work();
        } catch (...) {
            end_without_result(stream);
            throw;
        }
        instantiate(stream);
    }
    Graph(Graph&& other) noexcept : made_(std::exchange(other.made_, nullptr)) {}
    ~Graph();  // once it has run where it was launched
    Graph(const Graph&) = delete;
    Graph& operator=(const Graph&) = delete;

    void launch() const;  // on the current stream

 private:
    static void end_without_result(cudaStream_t stream);
    void instantiate(cudaStream_t stream);

    cudaGraphExec_t made_ = nullptr;
};

}  // namespace minillm::device
