# Turns clock changes into spans of time, one file for each region.
#
# in:  regions.tsv, then what ingest writes
# out: work/clean/<region>.tsv: zone <tab> first <tab> last <tab> ahead
#      ahead: 1 while the clock is ahead of the zone's winter time
#      first, last: in quarters of a day since 1900-01-01, the last up to `end`; a quarter has the state it begins with
#
# The source marks one of two settings as `dst`. Mostly that is summer time; where law has it the other way round
# (Ireland since 1971, Namibia, Morocco) it is the setting that is *behind*. So `dst` is not taken at its word.

BEGIN { FS = OFS = "\t"; quarter = 6 * 3600 }

FILENAME ~ /regions\.tsv$/ {
    if ($0 !~ /^#/) region_of[$1] = $2
    next
}

function put(last) {
    if (region != "-" && first <= last && last >= 0)
        print zone, (first < 0 ? 0 : first), last, ahead > ("work/clean/" region ".tsv")
}

$1 != zone {
    if (zone != "") put(end)
    zone = $1
    split(zone, part, "/")
    if (!(part[1] in region_of)) { print "no region for " zone | "cat >&2"; failed = 1 }
    region = region_of[part[1]]
    standard = $4; behind = 0; ahead = 0; offset = "none"
    first = end + 1
}

# What changes a name alone changes no clock.
$4 == offset && $5 == dst { next }

{
    at = $2 * 4 + int(($3 + quarter - 1) / quarter)
    if (at > end + 1) at = end + 1
    if ($5 == 1) {
        behind = $4 < standard
        now_ahead = !behind
    } else {
        # Back from a setting behind: this is the summer half.
        now_ahead = behind && dst == 1 && $4 > offset
        standard = $4
        behind = 0
    }
    put(at - 1)
    first = at; ahead = now_ahead
    offset = $4; dst = $5
}

END {
    put(end)
    if (failed) exit 1
}
