// How the library fails inside: one exception with a status and one sentence. api.cpp turns it into both.
#pragma once

#include <exception>
#include <string>
#include <utility>

#include "gne/gne.h"

namespace gne_sdk {

class Failure : public std::exception {
 public:
  Failure(gne_status status, std::string text) : status_(status), text_(std::move(text)) {}
  gne_status status() const noexcept { return status_; }
  const char* what() const noexcept override { return text_.c_str(); }

 private:
  gne_status status_;
  std::string text_;
};

}  // namespace gne_sdk
