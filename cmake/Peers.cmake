# Sets PITH_PEER_LLAMA to the site-packages folder of the llama.cpp that `make peers` installed, or
# to nothing.
file(GLOB pith_peer_headers
  "${PROJECT_SOURCE_DIR}/.venv-peers/lib*/python3*/site-packages/include/llama.h")
set(pith_peer_default "")
if(pith_peer_headers)
  list(GET pith_peer_headers 0 pith_peer_header)
  get_filename_component(pith_peer_default "${pith_peer_header}/../.." ABSOLUTE)
endif()
set(PITH_PEER_LLAMA "${pith_peer_default}" CACHE PATH
  "Folder with include/llama.h and lib/libllama.so to measure against")
