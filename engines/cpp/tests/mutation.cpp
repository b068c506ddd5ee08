#include "mutation.hpp"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "sha256.hpp"

namespace gne_test {
namespace {

namespace fs = std::filesystem;

size_t below(size_t end, std::mt19937& random) { return end ? random() % end : 0; }

// The text after `key` and up to `end`, replaced.
void replace_after(std::string& text, size_t from, const std::string& key, char end, const std::string& value) {
  const size_t start = text.find(key, from);
  if (start == std::string::npos) return;
  const size_t first = start + key.size(), last = text.find(end, first);
  if (last != std::string::npos) text.replace(first, last - first, value);
}

std::string text_of(const Bytes& bytes) { return {bytes.begin(), bytes.end()}; }

}  // namespace

void damage(Bytes& bytes, std::mt19937& random) {
  const size_t at = below(bytes.size(), random), length = below(bytes.size() - at, random) % 64;
  const auto start = bytes.begin() + static_cast<std::ptrdiff_t>(at), end = start + static_cast<std::ptrdiff_t>(length);
  switch (random() % 5) {
    case 0:
      for (size_t i = 0; !bytes.empty() && i <= random() % 4; ++i)
        bytes[below(bytes.size(), random)] ^= 1 << random() % 8;
      break;
    case 1:
      bytes.resize(at);
      break;
    case 2:
      bytes.erase(start, end);
      break;
    case 3: {
      const Bytes piece(start, end);
      bytes.insert(start, piece.begin(), piece.end());
      break;
    }
    default:
      std::fill(start, end, static_cast<uint8_t>(random()));
  }
}

void damage(Files& bundle, std::mt19937& random) {
  auto one = std::next(bundle.begin(), static_cast<std::ptrdiff_t>(below(bundle.size(), random)));
  if (random() % 8 == 0) {
    std::swap(one->second,
              std::next(bundle.begin(), static_cast<std::ptrdiff_t>(below(bundle.size(), random)))->second);
  } else {
    damage(one->second, random);
  }
}

void seal(Files& bundle) {
  std::string text = text_of(bundle["manifest.json"]);
  for (const auto& [name, bytes] : bundle) {
    const size_t record = text.find("\"" + name + "\": {");
    if (record == std::string::npos) continue;
    replace_after(text, record, "\"size\": ", ',', std::to_string(bytes.size()));
    replace_after(text, record, "\"sha256\": \"", '"', gne_sdk::sha256({bytes.data(), bytes.size()}));
  }
  const size_t own = text.rfind("\n  \"sha256\": \"");
  if (own != std::string::npos) {
    replace_after(text, own, "\"sha256\": \"", '"', "");
    const std::string digits = gne_sdk::sha256({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
    replace_after(text, own, "\"sha256\": \"", '"', digits);
  }
  bundle["manifest.json"] = Bytes(text.begin(), text.end());
}

Files read_folder(const std::string& folder) {
  Files files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    std::ifstream file(entry.path(), std::ios::binary);
    files[entry.path().filename()] = Bytes(std::istreambuf_iterator<char>(file), {});
  }
  return files;
}

void write_folder(const std::string& folder, const Files& files) {
  fs::create_directories(folder);
  for (const auto& [name, bytes] : files) {
    std::ofstream file(folder + "/" + name, std::ios::binary);
    file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  }
}

}  // namespace gne_test
