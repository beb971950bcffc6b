#include <gtest/gtest.h>

#include <string>

#include "pith/error.h"
#include "pith/plan.h"

namespace pith {
namespace {

TEST(KeepTest, ReadsItsForms) {
  EXPECT_EQ(Keep::Parse("100%").kind, Keep::Kind::kAll);
  const Keep quarter = Keep::Parse("25%");
  EXPECT_EQ(quarter.kind, Keep::Kind::kFraction);
  EXPECT_DOUBLE_EQ(quarter.fraction, 0.25);
  EXPECT_DOUBLE_EQ(Keep::Parse("0.5%").fraction, 0.005);
  const Keep entries = Keep::Parse("512");
  EXPECT_EQ(entries.kind, Keep::Kind::kEntries);
  EXPECT_EQ(entries.entries, 512);
  const Keep bytes = Keep::Parse("64MiB");
  EXPECT_EQ(bytes.kind, Keep::Kind::kBytes);
  EXPECT_EQ(bytes.bytes, 64u << 20);
  EXPECT_EQ(Keep::Parse("4096B").bytes, 4096u);
  const Keep tau = Keep::Parse("tau=-4");
  EXPECT_EQ(tau.kind, Keep::Kind::kThreshold);
  EXPECT_EQ(tau.tau, -4.0);
  EXPECT_EQ(Keep::Parse("tau=0.25").tau, 0.25);
}

TEST(KeepTest, WritesWhatItReads) {
  for (const char* text : {"100%", "25%", "29%", "0.1%", "33.3%", "0.000001%", "1", "512", "64MiB",
                           "3KiB", "2GiB", "1000B", "1025B", "tau=-4", "tau=0", "tau=2.5",
                           "tau=-0.1", "tau=0.000000001", "tau=-123456789012345685803008"}) {
    EXPECT_EQ(Keep::Parse(text).ToString(), text);
  }
}

TEST(KeepTest, RefusesTheRestNamingTheForms) {
  for (const char* text : {"",
                           "0",
                           "0%",
                           "-1",
                           "-5%",
                           "100.1%",
                           "101%",
                           "200%",
                           "nan%",
                           "inf%",
                           "%",
                           "25 %",
                           " 25%",
                           "25%%",
                           "half",
                           "512 entries",
                           "0x10",
                           "1e3",
                           "0MiB",
                           "64mib",
                           "99999999999999999999",
                           "1.5",
                           ".",
                           ".%",
                           "+5",
                           "5-",
                           "9999999TiB",
                           "tau",
                           "tau=",
                           "tau=-",
                           "tau=--4",
                           "tau=+4",
                           "tau=nan",
                           "tau=-inf",
                           "tau=1e3",
                           "tau=4x",
                           "TAU=4",
                           "tau = 4",
                           "tau=-4%"}) {
    try {
      const Keep keep = Keep::Parse(text);
      ADD_FAILURE() << "'" << text << "' was read as " << keep.ToString();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument) << text;
      EXPECT_NE(std::string(error.what()).find("25%"), std::string::npos) << text;
      EXPECT_NE(std::string(error.what()).find("64MiB"), std::string::npos) << text;
      EXPECT_NE(std::string(error.what()).find("tau=-4"), std::string::npos) << text;
    }
  }
}

TEST(TiersTest, ReadsAndWritesThem) {
  const std::vector<Tier> tiers = ParseTiers("f16:10%,q8:15.5%,q8/q4:20%,pq8x16:50%");
  ASSERT_EQ(tiers.size(), 4u);
  EXPECT_EQ(tiers[0].value_codec, "f16");
  EXPECT_DOUBLE_EQ(tiers[1].share, 0.155);
  EXPECT_EQ(tiers[2].key_codec, "q8");
  EXPECT_EQ(tiers[2].value_codec, "q4");
  EXPECT_EQ(tiers[3].value_codec, "q4");
  EXPECT_EQ(TiersToString(tiers), "f16:10%,q8:15.5%,q8/q4:20%,pq8x16/q4:50%");
  EXPECT_EQ(TiersToString(ParseTiers("q8:0.00001%")), "q8:0.00001%");
  EXPECT_EQ(KeepOf(tiers).fraction, 0.955);
  EXPECT_EQ(KeepOf(ParseTiers("f16:10%,q8:20%")).fraction, 0.3);
  EXPECT_EQ(KeepOf(ParseTiers("f16:30%,q8:70%")).kind, Keep::Kind::kFraction) << "still judged";
  EXPECT_EQ(ParseTiers("q8:100%")[0].share, 1);
  EXPECT_EQ(ParseTiers("lr32q4:50%")[0].value_codec, "q4");
}

TEST(TiersTest, RefusesTheRestNamingTheForm) {
  for (const char* text :
       {"", ",", "q8", "q8:", "q8:10", "q8:0%", "q8:101%", "q8:tau=3", "q8:10%,", ":10%", "q8/:10%",
        "/q8:10%", "q8:10%:20%", "q8 : 10%", "q8:-5%", "q8:1MiB"}) {
    try {
      ParseTiers(text);
      ADD_FAILURE() << "'" << text << "' was read";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument) << text;
      EXPECT_NE(std::string(error.what()).find("q8:15%"), std::string::npos) << error.what();
    }
  }
  try {
    ParseTiers("f16:60%,q8:60%");
    ADD_FAILURE() << "120% were read";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("make 120%"), std::string::npos) << error.what();
  }
}

TEST(ParseBytesTest, ReadsDecimalAndBinaryUnits) {
  EXPECT_EQ(ParseBytes("0"), 0u);
  EXPECT_EQ(ParseBytes("4096"), 4096u);
  EXPECT_EQ(ParseBytes("800KB"), 800000u);
  EXPECT_EQ(ParseBytes("800KiB"), 819200u);
  EXPECT_EQ(ParseBytes("64MiB"), 67108864u);
  EXPECT_EQ(ParseBytes("1.5GiB"), 1610612736u);
  EXPECT_EQ(ParseBytes("2TB"), 2000000000000u);
  EXPECT_EQ(ParseBytes("7B"), 7u);
}

TEST(ParseBytesTest, RefusesTheRest) {
  for (const char* text : {"", "MiB", "-1", "1 MiB", "1mib", "1e6", "inf", "nan", "0x10", "1.2.3",
                           "1,5GiB", "8388608TiB", "1MiBs", "25%"}) {
    EXPECT_THROW(ParseBytes(text), Error) << text;
  }
}

}  // namespace
}  // namespace pith
