// Measures llama.cpp through its C API on one GGUF file and prints one line of JSON: medians of prompt and decode
// tokens a second, percentiles of a token's time, seconds to load. bench/peers/run builds and runs it.
//
// usage: llamacpp_bench LIBRARIES MODEL.gguf [-p 256] [-n 32] [-t 2] [-r 3] [--variant haswell]
//        llamacpp_bench LIBRARIES MODEL.gguf --ids 1,2,3 [-n 32 | --logits OUT.npy]
//        llamacpp_bench LIBRARIES MODEL.gguf --quantize OUT.gguf --type q4_k_m
//
// LIBRARIES: the folder of the prebuilt ones; the variant for this CPU is chosen by the library unless one is named.
// The prompt takes seeded ids, and decoding is fed ids of its own: nothing is sampled. Repetitions of the first tenth
// of a second, one at least, do not count. With
// --ids: the ids that greedy decoding appends to these, instead, or the logits of all of them, f32 [ids, vocabulary].
// --quantize: llama.cpp's own quantizer makes a file of --type, a row of kTypes; f32 undoes quantization.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "ggml-backend.h"
#include "llama.h"

namespace {

double Now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// The value below which `part` of them lie (the nearest rank); 0 of none.
double Percentile(std::vector<double> values, double part) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const double rank = std::ceil(part * static_cast<double>(values.size()));
  return values[static_cast<size_t>(std::max(rank, 1.0)) - 1];
}

struct FileType {
  const char* name;
  llama_ftype type;
};
constexpr FileType kTypes[] = {
    {"f32", LLAMA_FTYPE_ALL_F32},          {"f16", LLAMA_FTYPE_MOSTLY_F16},       {"bf16", LLAMA_FTYPE_MOSTLY_BF16},
    {"q4_0", LLAMA_FTYPE_MOSTLY_Q4_0},     {"q4_1", LLAMA_FTYPE_MOSTLY_Q4_1},     {"q5_0", LLAMA_FTYPE_MOSTLY_Q5_0},
    {"q5_1", LLAMA_FTYPE_MOSTLY_Q5_1},     {"q8_0", LLAMA_FTYPE_MOSTLY_Q8_0},     {"q2_k", LLAMA_FTYPE_MOSTLY_Q2_K},
    {"q3_k_m", LLAMA_FTYPE_MOSTLY_Q3_K_M}, {"q4_k_s", LLAMA_FTYPE_MOSTLY_Q4_K_S}, {"q4_k_m", LLAMA_FTYPE_MOSTLY_Q4_K_M},
    {"q5_k_m", LLAMA_FTYPE_MOSTLY_Q5_K_M}, {"q6_k", LLAMA_FTYPE_MOSTLY_Q6_K},     {"iq4_nl", LLAMA_FTYPE_MOSTLY_IQ4_NL},
};

int Fail(int code, const std::string& message) {
  std::fprintf(stderr, "llamacpp_bench: error: %s\n", message.c_str());
  return code;
}

int Quantize(const std::string& path, const std::string& output, const std::string& type, int threads) {
  for (const FileType& row : kTypes) {
    if (type != row.name) continue;
    llama_model_quantize_params params = llama_model_quantize_default_params();
    params.ftype = row.type;
    params.nthread = threads;
    params.allow_requantize = row.type == LLAMA_FTYPE_ALL_F32;  // which loses nothing
    const uint32_t failed = llama_model_quantize(path.c_str(), output.c_str(), &params);
    return failed != 0 ? Fail(4, "cannot quantize " + path + " to " + output) : 0;
  }
  return Fail(2, "there is no --type " + type);
}

// The logits of every id as NumPy's format 1.0 has them.
int WriteLogits(llama_context* context, std::vector<llama_token>& ids, int vocabulary, const std::string& path) {
  const int count = static_cast<int>(ids.size());
  llama_batch batch = llama_batch_init(count, 0, 1);
  batch.n_tokens = count;
  for (int i = 0; i < count; ++i) {
    batch.token[i] = ids[static_cast<size_t>(i)];
    batch.pos[i] = i;
    batch.n_seq_id[i] = 1;
    batch.seq_id[i][0] = 0;
    batch.logits[i] = 1;
  }
  if (llama_decode(context, batch) != 0) return Fail(70, "the prompt failed");
  std::FILE* file = std::fopen(path.c_str(), "wb");
  if (file == nullptr) return Fail(6, "cannot write " + path);
  std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (" + std::to_string(count) + ", " +
                       std::to_string(vocabulary) + "), }";
  header.resize((10 + header.size() + 1 + 63) / 64 * 64 - 11, ' ');
  header += '\n';
  const unsigned char sizes[] = {1, 0, static_cast<unsigned char>(header.size() & 255),
                                 static_cast<unsigned char>(header.size() >> 8)};
  std::fwrite("\x93NUMPY", 1, 6, file);
  std::fwrite(sizes, 1, 4, file);
  std::fwrite(header.data(), 1, header.size(), file);
  for (int i = 0; i < count; ++i) {
    std::fwrite(llama_get_logits_ith(context, i), sizeof(float), static_cast<size_t>(vocabulary), file);
  }
  const bool failed = std::ferror(file) != 0;
  return std::fclose(file) != 0 || failed ? Fail(6, "cannot write " + path) : 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3 || argc % 2 == 0) return Fail(2, "usage: LIBRARIES MODEL.gguf and pairs of a flag and its value");
  const std::string libraries = argv[1], path = argv[2];
  std::string variant, ids, logits_path, quantized, type;
  int prompt_tokens = 256, tokens = 32, threads = 2, reps = 3;
  for (int i = 3; i < argc; i += 2) {
    const std::string flag = argv[i];
    int* const number = flag == "-p"   ? &prompt_tokens
                        : flag == "-n" ? &tokens
                        : flag == "-t" ? &threads
                        : flag == "-r" ? &reps
                                       : nullptr;
    std::string* const text = flag == "--variant"    ? &variant
                              : flag == "--ids"      ? &ids
                              : flag == "--logits"   ? &logits_path
                              : flag == "--quantize" ? &quantized
                              : flag == "--type"     ? &type
                                                     : nullptr;
    if (number != nullptr) {
      *number = std::atoi(argv[i + 1]);
    } else if (text != nullptr) {
      *text = argv[i + 1];
    } else {
      return Fail(2, "there is no flag " + flag);
    }
  }
  llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
  if (variant.empty()) {
    ggml_backend_load_all_from_path(libraries.c_str());
  } else if (ggml_backend_load((libraries + "/libggml-cpu-" + variant + ".so").c_str()) == nullptr) {
    return Fail(2, "there is no variant " + variant + " in " + libraries + ", or this CPU does not run it");
  }
  llama_backend_init();
  if (!quantized.empty()) return Quantize(path, quantized, type, threads);

  const double opening = Now();
  llama_model* model = llama_model_load_from_file(path.c_str(), llama_model_default_params());
  if (model == nullptr) return Fail(4, "cannot load " + path);
  const int vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(model));
  std::vector<llama_token> prompt;
  for (char* at = ids.data(); *at != '\0'; at += *at == ',') {
    char* end;
    prompt.push_back(static_cast<llama_token>(std::strtol(at, &end, 10)));
    if (end == at) return Fail(2, "--ids: " + ids);
    at = end;
  }
  const bool greedy = !prompt.empty();
  if (greedy) prompt_tokens = static_cast<int>(prompt.size());
  if (!logits_path.empty()) tokens = 0;
  llama_context_params params = llama_context_default_params();
  params.n_ctx = static_cast<uint32_t>(prompt_tokens + tokens + 8);
  params.n_batch = static_cast<uint32_t>(std::max(prompt_tokens, 32));
  params.n_ubatch = 512;
  params.n_threads = params.n_threads_batch = threads;
  llama_context* context = llama_init_from_model(model, params);
  if (context == nullptr) return Fail(6, "cannot make a context");
  const double load = Now() - opening;
  if (!logits_path.empty()) {
    if (!greedy) return Fail(2, "--logits needs --ids");
    const int code = WriteLogits(context, prompt, vocabulary, logits_path);
    std::_Exit(code);
  }

  const auto best = [&] {
    const float* logits = llama_get_logits_ith(context, -1);
    return static_cast<llama_token>(std::max_element(logits, logits + vocabulary) - logits);
  };
  std::vector<double> prompt_rates, rates, token_ms;
  const int last_rep = greedy ? 0 : reps;  // repetition 0 is not counted
  const double warm = Now() + 0.1;
  for (int rep = 0; rep <= last_rep; rep += greedy || rep > 0 || Now() > warm) {
    llama_memory_clear(llama_get_memory(context), true);
    if (!greedy) {
      prompt.resize(static_cast<size_t>(prompt_tokens));
      for (int i = 0; i < prompt_tokens; ++i)
        prompt[static_cast<size_t>(i)] = 3 + (i * 7919 + rep * 31) % (vocabulary - 3);
    }
    double start = Now();
    if (prompt_tokens > 0 && llama_decode(context, llama_batch_get_one(prompt.data(), prompt_tokens)) != 0) {
      return Fail(70, "the prompt failed");
    }
    if (rep > 0 && prompt_tokens > 0) prompt_rates.push_back(prompt_tokens / (Now() - start));
    llama_token token = greedy ? best() : 5;
    start = Now();
    for (int i = 0; i < tokens; ++i) {
      const double before = Now();
      if (greedy) std::printf("%d%s", token, i + 1 < tokens ? " " : "\n");
      if (greedy && i + 1 == tokens) break;
      if (llama_decode(context, llama_batch_get_one(&token, 1)) != 0) return Fail(70, "a token failed");
      token = greedy ? best() : 3 + (i * 31 + rep) % (vocabulary - 3);
      if (rep > 0) token_ms.push_back(1e3 * (Now() - before));
    }
    if (rep > 0 && tokens > 0) rates.push_back(tokens / (Now() - start));
  }
  if (!greedy) {
    std::printf("{\"pp\": %.2f, \"tg\": %.2f, \"p50_ms\": %.4f, \"p99_ms\": %.4f, \"load_s\": %.4f}\n",
                Percentile(prompt_rates, 0.5), Percentile(rates, 0.5), Percentile(token_ms, 0.5),
                Percentile(token_ms, 0.99), load);
  }
  std::fflush(stdout);
  std::_Exit(0);  // the library's threads need no farewell
}
