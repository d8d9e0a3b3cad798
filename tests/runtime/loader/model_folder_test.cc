#include "runtime/loader/model_folder.h"

#include <stdlib.h>

#include <filesystem>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/loader/checkpoint.h"
#include "tests/runtime/loader/temp_dir.h"

namespace tandem::loader {
namespace {

using ::testing::HasSubstr;

// As the hub's client lays it out: blobs, snapshots of links to them, refs.
void WriteCache(const TempDir& dir) {
  const std::string model = "hub/models--org--name/";
  dir.Write(model + "blobs/111", SafetensorsOf({{"m", 2, 2, 5}}));
  dir.Write(model + "blobs/222", "{}");
  dir.Write(model + "refs/main", "abc123\n");
  dir.Write(model + "refs/pr/7", "abc123");
  dir.Write(model + "refs/gone", "fff");
  const std::string snapshot = dir / (model + "snapshots/abc123");
  std::filesystem::create_directories(snapshot);
  std::filesystem::create_symlink("../../blobs/111", snapshot + "/model.safetensors");
  std::filesystem::create_symlink("../../blobs/222", snapshot + "/config.json");
}

TEST(ModelFolder, FindsNamesInTheHubsCache) {
  TempDir dir;
  WriteCache(dir);
  const HubCache cache{dir / "hub", "HF_HUB_CACHE"};
  for (const char* name : {"org/name", "org/name@main", "org/name@abc123", "org/name@pr/7"}) {
    const auto folder = ModelFolder::Open(name, cache);
    ASSERT_TRUE(folder.ok()) << folder.status();
    EXPECT_EQ(folder->path(), dir / "hub/models--org--name/snapshots/abc123");
    EXPECT_EQ(*folder->ReadSmallFile("config.json", 10), "{}");
    EXPECT_TRUE(Checkpoint::Open(*folder).ok());
  }
}

TEST(ModelFolder, SaysWhereItLooked) {
  TempDir dir;
  WriteCache(dir);
  const HubCache cache{dir / "hub", "HF_HUB_CACHE"};
  const auto message = [&](const char* name) {
    const auto folder = ModelFolder::Open(name, cache);
    EXPECT_EQ(folder.status().code(), absl::StatusCode::kNotFound) << name;
    return std::string(folder.status().message());
  };
  EXPECT_THAT(message("org/other"), HasSubstr("models--org--other/snapshots/main"));
  EXPECT_THAT(message("org/other"), HasSubstr("folder org/other"));
  EXPECT_THAT(message("org/other"), HasSubstr("$HF_HUB_CACHE"));
  EXPECT_THAT(message("org/name@gone"), HasSubstr("snapshots/fff"));
  // None of these may become part of a path in the cache.
  for (const char* name :
       {"org/name@../../x", "../x", "a/b/c", "org/name@", "a--b/c", "/no/such"}) {
    EXPECT_THAT(message(name), ::testing::Not(HasSubstr("models--"))) << name;
  }
  EXPECT_EQ(ModelFolder::Open("", cache).status().code(), absl::StatusCode::kInvalidArgument);
  const std::string file = dir.Write("x.safetensors", "x");
  EXPECT_THAT(std::string(ModelFolder::Open(file, cache).status().message()),
              HasSubstr("expected the folder that holds it"));
}

TEST(ModelFolder, ReadsSmallFilesOnly) {
  TempDir dir;
  dir.Write("five", "12345");
  std::filesystem::create_directories(dir / "folder");
  const auto folder = ModelFolder::Open(dir.path() + "/");
  ASSERT_TRUE(folder.ok());
  EXPECT_EQ(*folder->ReadSmallFile("five", 5), "12345");
  EXPECT_THAT(std::string(folder->ReadSmallFile("five", 4).status().message()),
              HasSubstr("five: size: found 5 bytes, expected at most 4"));
  EXPECT_EQ(folder->ReadSmallFile("six", 4).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(folder->ReadSmallFile("folder", 4).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_DEATH((void)folder->PathOf("../x"), "broken invariant");
}

TEST(HubCache, FollowsTheEnvironment) {
  for (const char* name : {"HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"}) unsetenv(name);
  setenv("HOME", "/h", 1);
  EXPECT_EQ(HubCache::FromEnvironment().path, "/h/.cache/huggingface/hub");
  setenv("XDG_CACHE_HOME", "/x", 1);
  EXPECT_EQ(HubCache::FromEnvironment().path, "/x/huggingface/hub");
  setenv("HF_HOME", "/f", 1);
  EXPECT_EQ(HubCache::FromEnvironment().path, "/f/hub");
  setenv("HF_HUB_CACHE", "/c", 1);
  EXPECT_EQ(HubCache::FromEnvironment().path, "/c");
}

TEST(ModelFolder, NameOfIsTheLastPart) {
  EXPECT_EQ(NameOf("/models/llama"), "llama");
  EXPECT_EQ(NameOf("/models/llama//"), "llama");
  EXPECT_EQ(NameOf("org/name"), "name");
  EXPECT_EQ(NameOf("llama"), "llama");
  EXPECT_EQ(NameOf("/"), "/");
}

}  // namespace
}  // namespace tandem::loader
