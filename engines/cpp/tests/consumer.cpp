// consumer BUNDLE IMAGE.jpg: what a C++ program does; prints the label of the image once for every way there is.
#include <fstream>
#include <iostream>
#include <iterator>

#include "gne/gne.hpp"

namespace {

// The status and text of what a call throws.
template <typename Call>
void show_failure(Call call) {
  try {
    call();
    std::cout << "no failure\n";
  } catch (const gne::error& problem) {
    std::cout << gne_status_name(problem.status()) << ": " << problem.what() << "\n";
  }
}

std::vector<std::uint8_t> bytes_of(const char* path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void show_ways(const gne::engine& engine, const char* path) {
  const auto jpeg = bytes_of(path);
  const auto pixels = engine.pixels_of_jpeg(jpeg.data(), jpeg.size());
  const std::uint32_t crop = engine.info().crop;
  std::vector<std::uint8_t> luma(crop * crop, 82), chroma(crop * crop / 2);
  for (std::size_t i = 0; i < chroma.size(); ++i) chroma[i] = i % 2 ? 240 : 90;  // red, limited range
  std::cout << engine.classify_file(path).front().label << '\n';
  std::cout << engine.classify_jpeg(jpeg.data(), jpeg.size(), 1).front().label << '\n';
  std::cout << engine.classify(gne::interleaved(GNE_RGB, pixels.data(), crop, crop, crop * 3)).front().label << '\n';
  const std::uint32_t odd = crop - 1;
  std::cout << engine.classify(gne::nv12(GNE_NV12, odd, odd, luma.data(), crop, chroma.data(), crop)).front().label
            << '\n';
  std::cout << engine.rank(engine.run(pixels), 1).front().label << '\n';
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) return 2;
  gne::engine first(arguments[1]);
  gne::engine engine = std::move(first);
  show_ways(engine, arguments[2]);
  for (const std::string& label : engine.labels()) std::cout << label << ' ';
  std::cout << engine.info().classes << ' ' << engine.info().precision << '\n';
  show_failure([&] { first.classify_file(arguments[2]); });
  show_failure([&] { engine.classify_file(arguments[2], 4); });
  show_failure([&] { engine.classify_file("none.jpg"); });
  show_failure([&] { engine.run({}); });
  show_failure([&] { gne::engine("none"); });
}
