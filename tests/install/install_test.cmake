# See CMakeLists.txt. Fails by message(FATAL_ERROR), which ctest reports.
set(prefix ${WORK_DIR}/prefix)
file(REMOVE_RECURSE ${WORK_DIR})

function(run)
  cmake_parse_arguments(arg "" "OUTPUT" "COMMAND" ${ARGN})
  execute_process(COMMAND ${arg_COMMAND} RESULT_VARIABLE result OUTPUT_VARIABLE output
    ERROR_VARIABLE errors)
  if(NOT result EQUAL 0)
    list(JOIN arg_COMMAND " " command)
    message(FATAL_ERROR "${command}\nexited with ${result}\n${output}\n${errors}")
  endif()
  if(arg_OUTPUT)
    set(${arg_OUTPUT} "${output}" PARENT_SCOPE)
  endif()
endfunction()

function(expect text pattern what)
  if(NOT text MATCHES "${pattern}")
    message(FATAL_ERROR "${what}: expected a match of '${pattern}', got:\n${text}")
  endif()
endfunction()

run(COMMAND ${CMAKE_COMMAND} --install ${BUILD_DIR} --prefix ${prefix})

set(sanitize "")
if(SANITIZE)
  set(sanitize -DCMAKE_CXX_FLAGS=-fsanitize=${SANITIZE})
endif()
run(COMMAND ${CMAKE_COMMAND} -S ${SOURCE_DIR}/examples -B ${WORK_DIR}/examples -G ${GENERATOR}
  -DCMAKE_PREFIX_PATH=${prefix} -DCMAKE_CXX_COMPILER=${CXX_COMPILER}
  -DCMAKE_BUILD_TYPE=${BUILD_TYPE} ${sanitize})
run(COMMAND ${CMAKE_COMMAND} --build ${WORK_DIR}/examples)

# About 600 tokens, so that a quarter is less than all.
set(document ${WORK_DIR}/document.txt)
set(text "")
foreach(day RANGE 1 40)
  string(APPEND text "On day ${day} the keeper of the lighthouse wrote that the sea was calm.\n")
endforeach()
file(WRITE ${document} "${text}")

run(COMMAND ${WORK_DIR}/examples/ask_document ${MODEL} ${document} "Who wrote about the sea?"
  OUTPUT answer)
expect("${answer}" "[a-z]+.*[0-9]+ tokens read, [0-9]+ of [0-9]+ cache entries kept" "the example")
string(REGEX MATCH "([0-9]+) of ([0-9]+) cache entries" counts "${answer}")
math(EXPR half "${CMAKE_MATCH_2} / 2")
if(NOT CMAKE_MATCH_1 LESS half)
  message(FATAL_ERROR "the example kept ${counts}, expected less than half:\n${answer}")
endif()

# The second time the document need not be there.
set(snapshot ${WORK_DIR}/document.pith)
run(COMMAND ${WORK_DIR}/examples/compress_once ${MODEL} ${document} ${snapshot}
  "Who wrote about the sea?" OUTPUT first)
expect("${first}" "[0-9]+ of [0-9]+ cache entries kept.*[a-z]+" "the second example")
run(COMMAND ${WORK_DIR}/examples/compress_once ${MODEL} - ${snapshot}
  "Who wrote about the sea?" OUTPUT second)
if(NOT first MATCHES "MiB\n(.*)" OR NOT CMAKE_MATCH_1 STREQUAL second)
  message(FATAL_ERROR "from the snapshot:\n${second}\nwhen it was made:\n${first}")
endif()

# The program finds its libraries where it was installed, without help from the environment.
run(COMMAND ${CMAKE_COMMAND} -E env --unset=LD_LIBRARY_PATH ${prefix}/bin/pith --help OUTPUT help)
expect("${help}" "ask.*calibrate" "pith --help")
