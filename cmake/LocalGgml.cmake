# Sets ggml_DIR, the folder of ggml-config.cmake, unless -Dggml_DIR= names it: from GGML_DIR (a CMake
# or environment variable: that folder, or a prefix), else from the .venv that scripts/setup.sh made,
# else find_package looks where it always looks.
if(NOT DEFINED GGML_DIR AND DEFINED ENV{GGML_DIR})
  set(GGML_DIR "$ENV{GGML_DIR}")
endif()

if(GGML_DIR)
  file(GLOB pith_ggml_configs LIST_DIRECTORIES false
    "${GGML_DIR}/ggml-config.cmake"
    "${GGML_DIR}/lib*/cmake/ggml/ggml-config.cmake"
    "${GGML_DIR}/lib/*/cmake/ggml/ggml-config.cmake")
  if(NOT pith_ggml_configs)
    message(FATAL_ERROR "GGML_DIR is '${GGML_DIR}', which holds no ggml-config.cmake; expected its "
      "folder or the prefix that ggml was installed to.")
  endif()
elseif(NOT EXISTS "${ggml_DIR}/ggml-config.cmake")
  file(GLOB pith_ggml_configs LIST_DIRECTORIES false
    "${PROJECT_SOURCE_DIR}/.venv/lib*/python3*/site-packages/libggml/lib*/cmake/ggml/ggml-config.cmake")
endif()

if(pith_ggml_configs)
  list(GET pith_ggml_configs 0 pith_ggml_config)
  get_filename_component(pith_ggml_folder "${pith_ggml_config}" DIRECTORY)
  set(ggml_DIR "${pith_ggml_folder}" CACHE PATH "Folder of ggml-config.cmake" FORCE)
endif()
