#pragma once

#include <string>
#include <vector>

namespace minillm::on_host {

// What 64 threads made of 0 to 63 (tests/test_cuda_on_host.py).
std::vector<int> run_wrong_kernel(const std::string& name);

}  // namespace minillm::on_host
