# graphopt_bundle(NAME MODEL model.onnx SAMPLES samples.npz TARGET board.toml [FLAGS ...])
#
# Adds a target NAME that makes the bundle ${CMAKE_CURRENT_BINARY_DIR}/NAME when the model, the
# samples, the target, the build step or graphopt itself changed, and only then.
find_package(Python3 COMPONENTS Interpreter REQUIRED)
set(GRAPHOPT_STEP ${CMAKE_CURRENT_LIST_DIR}/build_model.py)

function(graphopt_bundle name)
  cmake_parse_arguments(given "" "MODEL;SAMPLES;TARGET" "FLAGS" ${ARGN})
  set(bundle ${CMAKE_CURRENT_BINARY_DIR}/${name})
  set(version ${CMAKE_CURRENT_BINARY_DIR}/${name}.graphopt-version)

  # Looked at every time, touched only when the version changed.
  add_custom_target(${name}-graphopt-version
    COMMAND ${Python3_EXECUTABLE} -c "import graphopt; print(graphopt.__version__)" > ${version}.new
    COMMAND ${CMAKE_COMMAND} -E copy_if_different ${version}.new ${version}
    BYPRODUCTS ${version}
    VERBATIM)

  # The bundle appears at once, so its manifest stands for all of it.
  add_custom_command(OUTPUT ${bundle}/manifest.json
    COMMAND ${Python3_EXECUTABLE} ${GRAPHOPT_STEP} ${given_MODEL} --samples ${given_SAMPLES}
            --target ${given_TARGET} --output ${bundle} ${given_FLAGS}
    DEPENDS ${given_MODEL} ${given_SAMPLES} ${given_TARGET} ${GRAPHOPT_STEP} ${version}
    COMMENT "Optimizing ${given_MODEL}"
    VERBATIM)
  add_custom_target(${name} ALL DEPENDS ${bundle}/manifest.json)
  add_dependencies(${name} ${name}-graphopt-version)
endfunction()
