// rows.cpp: writes the floats that a packed file stands for, row by row, to standard output.
#include "pangu_parallel.h"

#include "pangu_quant.h"

#include <cstdio>
#include <iterator>
#include <fstream>

int main() {
  std::ifstream file(FILE_NAME, std::ios::binary);
  const std::vector<char> raw((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const pangu::Weight w = pangu::weight_view(raw.data(), FORMAT, ROWS, COLUMNS);
  std::vector<float> row(COLUMNS);
  for (int o = 0; o < ROWS; ++o) {
    pangu::weight_row(w, o, COLUMNS, row.data());
    std::fwrite(row.data(), 4, row.size(), stdout);
  }
  return 0;
}
