// Settings from a YAML file: sections with keys, as the rows' names say.
//
//     server:
//       port: 8080          # the row "server.port"
//     engine:
//       experts:
//         layers: [0-3, 7]  # the row "engine.experts.layers", a list: the same as "0-3,7"
//         opencl:           # "engine.experts.opencl", lists by name: the same as "0-3:0-7;4:2,5"
//           0-3: 0-7
//           4: [2, 5]
//
#ifndef BASE_SETTINGS_FILE_H
#define BASE_SETTINGS_FILE_H

#include "base/settings.h"

// Ten times what all settings take; libyaml spends the square of what is nested.
enum { SETTINGS_FILE_BYTES_MAX = 32 * 1024 };

// Sets what the file names. An error names the file and the line: a key that is unknown (and those there are), a value
// of the wrong type or out of its range, a key that stands there twice, what is not YAML. A file without any key is
// fine.
int settings_read_file(const struct setting_table *tables, size_t table_count, const char *path, struct error *error);

#endif
