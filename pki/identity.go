package pki

import (
	"crypto/x509"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/starlingdeploy/starling"
)

const scheme = "spiffe"

// clusterURI names the cluster itself; the CA's certificate carries it.
func clusterURI(cluster string) *url.URL { return &url.URL{Scheme: scheme, Host: cluster} }

// clusterOf returns the cluster that a CA's certificate names.
func clusterOf(cert *x509.Certificate) (string, bool) {
	if len(cert.URIs) != 1 || starling.CheckName("cluster", cert.URIs[0].Host) != nil ||
		cert.URIs[0].String() != clusterURI(cert.URIs[0].Host).String() {
		return "", false
	}
	return cert.URIs[0].Host, true
}

// enrolURI names what an enrolment authority may sign: machines of one region.
func enrolURI(cluster, region string) *url.URL {
	return &url.URL{Scheme: scheme, Host: cluster, Path: "/region/" + region + "/enrol"}
}

// enrolRegionOf returns the cluster and region of an enrolment authority's certificate.
func enrolRegionOf(cert *x509.Certificate) (cluster, region string, ok bool) {
	if !cert.IsCA || len(cert.URIs) != 1 {
		return "", "", false
	}
	u := cert.URIs[0]
	part := strings.Split(u.Path, "/")
	if len(part) != 4 || u.String() != enrolURI(u.Host, part[2]).String() ||
		starling.CheckName("cluster", u.Host) != nil || starling.CheckName("region", part[2]) != nil {
		return "", "", false
	}
	return u.Host, part[2], true
}

// roleURI is the one accepted form of an identity's SAN.
func roleURI(cluster, region string, role starling.Role, name string) *url.URL {
	return &url.URL{
		Scheme: scheme,
		Host:   cluster,
		Path:   strings.Join([]string{"", "region", region, "role", string(role), name}, "/"),
	}
}

// IdentityOf reads the identity that a node's certificate claims. It trusts nothing: the
// claim counts only once the chain is verified, see Credentials.Verify. Every URI
// SAN must be a role of one and the same cluster, region and name, in the exact form
// that CA.Issue writes. The roles come in the order of starling.Roles.
func IdentityOf(cert *x509.Certificate) (starling.Identity, error) {
	var id starling.Identity
	if cert.IsCA {
		return id, refusedf("it is a CA's certificate, not a node's")
	}
	if len(cert.URIs) == 0 {
		return id, refusedf("it names no node: no URI of the form %s://<cluster>/region/<region>/role/<role>/<name>", scheme)
	}
	if len(cert.URIs) > len(starling.Roles) {
		return id, refusedf("it has %d URIs, there are only %d roles", len(cert.URIs), len(starling.Roles))
	}
	held := make(map[starling.Role]bool)
	for i, u := range cert.URIs {
		one, role, err := parseRoleURI(u)
		if err != nil {
			return starling.Identity{}, err
		}
		if i == 0 {
			id = one
		}
		if one.Cluster != id.Cluster || one.Region != id.Region || one.Name != id.Name {
			return starling.Identity{}, refusedf("its URIs disagree: %s/%s/%s and %s/%s/%s",
				id.Cluster, id.Region, id.Name, one.Cluster, one.Region, one.Name)
		}
		if held[role] {
			return starling.Identity{}, refusedf("it names role %s twice", role)
		}
		held[role] = true
	}
	for _, r := range starling.Roles {
		if held[r] {
			id.Roles = append(id.Roles, r)
		}
	}
	return id, nil
}

func parseRoleURI(u *url.URL) (starling.Identity, starling.Role, error) {
	var id starling.Identity
	part := strings.Split(u.Path, "/")
	if u.Scheme != scheme || len(part) != 6 || part[0] != "" || part[1] != "region" || part[3] != "role" {
		return id, "", refusedf("its URI %.200q is not of the form %s://<cluster>/region/<region>/role/<role>/<name>", u, scheme)
	}
	id = starling.Identity{Cluster: u.Host, Region: part[2], Name: part[5]}
	role := starling.Role(part[4])
	if !slices.Contains(starling.Roles, role) {
		return id, "", refusedf("its URI %.200q names an unknown role", u)
	}
	if err := checkNames(id.Cluster, id.Region, id.Name); err != nil {
		return id, "", refusedf("its URI %.200q: %w", u, err)
	}
	// Anything that URL syntax adds around these parts (user, query, escapes) is refused here.
	if want := roleURI(id.Cluster, id.Region, role, id.Name); u.String() != want.String() {
		return id, "", refusedf("its URI %.200q is not in canonical form, want %s", u, want)
	}
	return id, role, nil
}

func checkNames(cluster, region, name string) error {
	if err := starling.CheckName("cluster", cluster); err != nil {
		return err
	}
	if err := starling.CheckName("region", region); err != nil {
		return err
	}
	return starling.CheckName("name", name)
}

func refusedf(format string, args ...any) error {
	return fmt.Errorf("%w: certificate refused: %w", starling.ErrForbidden, fmt.Errorf(format, args...))
}
