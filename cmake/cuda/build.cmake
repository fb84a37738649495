# Configures and builds _cuda into OUT. A failure ends the build only where MODE is REQUIRE.
execute_process(RESULT_VARIABLE failed COMMAND ${CMAKE_COMMAND} -S ${SOURCE} -B ${BUILD}
  -G ${GENERATOR} -DCMAKE_MAKE_PROGRAM=${MAKE_PROGRAM} -DCMAKE_CXX_COMPILER=${CXX}
  -DCMAKE_CUDA_COMPILER=${NVCC} -DCMAKE_BUILD_TYPE=Release
  -Dpybind11_DIR=${PYBIND11} -DPython_EXECUTABLE=${PYTHON}
  -DCMAKE_LIBRARY_OUTPUT_DIRECTORY=${OUT})
if(NOT failed)
  execute_process(RESULT_VARIABLE failed COMMAND ${CMAKE_COMMAND} --build ${BUILD})
endif()
if(failed)
  file(GLOB old ${OUT}/*)
  if(old)
    file(REMOVE ${old})
  endif()
  if(MODE STREQUAL "REQUIRE")
    message(FATAL_ERROR "minillm: the CUDA extension was not built (see above)")
  endif()
  message(WARNING "minillm: the CUDA extension was not built (see above); CuPy does its work.")
endif()
