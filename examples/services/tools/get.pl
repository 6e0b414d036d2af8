# Prints a file of the site: perl get.pl PORT PATH
use strict; use warnings; use IO::Socket::INET;
my ($port, $path) = @ARGV;
my $server = IO::Socket::INET->new(PeerAddr => "127.0.0.1", PeerPort => $port) or die "port $port: $!\n";
print $server "GET $path HTTP/1.0\r\n\r\n";
my $status = <$server> // "";
die "$path: $status" unless $status =~ /^HTTP\/1\.\d 200 /;
while (defined(my $line = <$server>)) { last if $line =~ /^\r?$/ }
print while <$server>;
