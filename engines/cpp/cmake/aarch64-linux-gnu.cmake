# Builds libgne on another machine for a Jetson, or any Linux on 64-bit Arm, with Debian's cross compiler:
#   dpkg --add-architecture arm64 && apt update && apt install g++-aarch64-linux-gnu libjpeg62-turbo-dev:arm64
#   cmake -S . -B build -DCMAKE_TOOLCHAIN_FILE=cmake/aarch64-linux-gnu.cmake
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)
