#include "frontend/model.h"
#include "ir/text.h"
#include "gtest/gtest.h"
#include <iostream>
namespace sinter {
TEST(X, Y) {
  auto m = OpenModel("preset:smallmind:f16");
  ASSERT_TRUE(m.ok()) << m.status();
  std::cout << Print(*m->module).substr(0, 9000);
  auto p = Parse(Print(*m->module), "x.sir");
  ASSERT_TRUE(p.ok()) << p.status();
}
}
