#include "passes/norm_forms.h"

#include "absl/strings/str_cat.h"

namespace sinter {
namespace {

// What the right sides say of epsilon. A build option makes it wrong on purpose, for the fuzzer to find: the op forgets
// which epsilon there was.
#ifdef SINTER_WRONG_REWRITE
constexpr char kEps[] = " {eps=1e-5}";
#else
constexpr char kEps[] = " {eps=$eps}";
#endif

struct Inverse {
  const char* text;
  bool (*when)(const RuleMatch&);
};

// %inv = 1 / sqrt(%narrow + eps), with epsilon in the type of x, or outside or inside a conversion to a wider one.
constexpr Inverse kInverses[] = {
    {R"(
      %ve   = add %narrow, $eps
      %inv  = rsqrt %ve
    )",
     nullptr},
    {R"(
      %wide = convert %narrow
      %ve   = add %wide, $eps
      %iw   = rsqrt %ve
      %inv  = convert %iw
    )",
     Widens},
    {R"(
      %ve   = add %narrow, $eps
      %wide = convert %ve
      %iw   = rsqrt %wide
      %inv  = convert %iw
    )",
     Widens},
};

struct Scaled {
  const char *text, *gamma;
};

constexpr Scaled kProducts[] = {
    {"%y = mul %d, %inv\n", ""},
    {"%s = mul %inv, %gamma\n %y = mul %d, %s\n", ", %gamma"},
    {"%s = mul %d, %gamma\n %y = mul %s, %inv\n", ", %gamma"},
};

}  // namespace

std::vector<Rule> NormRules(const std::string& name, const std::string& op, const std::string& x,
                            const std::vector<std::string>& squares) {
  std::vector<Rule> rules;
  for (const std::string& square : squares) {
    for (const Inverse& inverse : kInverses) {
      for (const Scaled& product : kProducts) {
        const std::string left = absl::StrCat(square, inverse.text, product.text);
        rules.push_back({name, absl::StrCat(left, "=>\n %y = ", op, " ", x, product.gamma, kEps), inverse.when});
      }
    }
  }
  rules.push_back({absl::StrCat(name, "-gamma"), absl::StrCat("%n = ", op, R"( %x {eps=$eps}
      %y = mul %n, %gamma
    =>
      %y = )",
                                                              op, " %x, %gamma {eps=$eps}")});
  // In a wider type and back.
  for (bool gamma : {false, true}) {
    rules.push_back({absl::StrCat(name, "-narrow"),
                     absl::StrCat("%wide = convert %narrow\n", gamma ? "shared %g = convert %gamma\n" : "", "%n = ", op,
                                  " %wide", gamma ? ", %g" : "", R"( {eps=$eps}
      %y = convert %n
    =>
      %y = )",
                                  op, " %narrow", gamma ? ", %gamma" : "", " {eps=$eps}"),
                     Widens});
  }
  return rules;
}

}  // namespace sinter
