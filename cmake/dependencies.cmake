# Every third-party part, and why it is here. ./dev installs the Debian packages named on the right.
set(CMAKE_FIND_PACKAGE_TARGETS_GLOBAL ON)            # projects that add this one as a folder link them, too
find_package(absl REQUIRED)                          # libabsl-dev: Status, string formatting, inlined vectors
find_package(FlatBuffers REQUIRED)                   # libflatbuffers-dev, flatbuffers-compiler: metadata of a compiled module
find_package(LLVM 19.1 REQUIRED CONFIG)              # llvm-19-dev: code generation (backend/ alone); its archives use zlib1g-dev, libzstd-dev
find_package(CLI11 REQUIRED)                         # libcli11-dev: the command line
find_package(nlohmann_json REQUIRED)                 # nlohmann-json3-dev: reports for machines
find_package(Threads REQUIRED)
find_path(XXHASH_INCLUDE_DIR xxhash.h REQUIRED)      # libxxhash-dev: checksums and stable content hashes (header only)
find_path(NETTLE_INCLUDE_DIR nettle/sha2.h REQUIRED) # nettle-dev: SHA-256 of a weight file's header
find_library(NETTLE_LIBRARY libnettle.a REQUIRED)

# A program takes 8 ms to load thirty shared libraries: it contains the archives that stand beside them.
get_property(imported DIRECTORY PROPERTY IMPORTED_TARGETS)
list(FILTER imported INCLUDE REGEX "^absl::")
foreach(target ${imported})
  get_target_property(shared ${target} IMPORTED_LOCATION_NONE)
  string(REGEX REPLACE "\\.so[.0-9]*$" ".a" archive "${shared}")
  if(EXISTS "${archive}")
    set_target_properties(${target} PROPERTIES IMPORTED_LOCATION_NONE "${archive}")
  endif()
endforeach()
